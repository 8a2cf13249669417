"""FAB-T: the targeted Fast Adaptive Boundary attack, Linf and L2 (Croce and Hein 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.attacks.hyperplane import to_hyperplane
from models.attacks.minimum_norm import Smallest, in_parts, likeliest_others, smallest_confirmed, target_margin
from models.attacks.noise import Noise
from models.attacks.objectives import is_right
from models.attacks.spec import ATTACKS, Attack, BoundedParams
from models.attacks.threat import Threat, threat_model
from models.attacks.victim import Victim

_SHORTEST = 1e-8  # of a way to the hyperplane, so that two ways of length zero have a ratio


class FABTParams(BoundedParams):
    """FAB-T; its points may lie outside the ball of ``eps`` and count against robust accuracy only inside it."""

    name: Literal["fab-t"] = "fab-t"
    steps: int = Field(100, ge=1, le=10_000, description="steps a restart, for each target")
    targets: int = Field(9, ge=1, le=1_000, description="likeliest wrong classes to aim at; fewer classes: all of them")
    restarts: int = Field(1, ge=1, le=1_000, description="runs; the first starts at the image, the others around it")
    alpha_max: float = Field(0.1, ge=0, le=1, description="largest weight of the step that starts at the clean image")
    eta: float = Field(1.05, ge=1, le=2, description="η: how far a step goes, 1 ends on the linearized boundary")
    beta: float = Field(
        0.9, gt=0, lt=1, description="β: share of the perturbation that is kept once the model is fooled"
    )
    stop_inside: bool = Field(
        False,
        description="leave an image once a point inside eps fools the model; its norm is then an upper bound",
    )

    @property
    def cost(self) -> float:
        # A step takes a forward beside its gradient, half a gradient's price.
        return 1.5 * self.steps * self.targets * self.restarts


@dataclass
class _Rows:
    """One row for each image in the game and each of its T targets; an image's rows stand together, (N·T, …)."""

    index: Tensor  # of the images in the game, (N,)
    targets: Tensor
    labels: Tensor
    origins: Tensor
    points: Tensor

    @classmethod
    def of(cls, images: Tensor, labels: Tensor, targets: Tensor, *, index: Tensor) -> _Rows:
        count = targets.shape[1]
        origins = images[index].repeat_interleave(count, dim=0)
        return cls(index, targets[index].flatten(), labels[index].repeat_interleave(count), origins, origins.clone())

    def keep(self, images: Tensor) -> None:
        """Drop the images that the mask (N,) does not name."""
        rows = images.repeat_interleave(len(self.targets) // len(self.index))
        self.index = self.index[images]
        self.targets, self.labels = self.targets[rows], self.labels[rows]
        self.origins, self.points = self.origins[rows], self.points[rows]


def run(victim: Victim, images: Tensor, labels: Tensor, params: FABTParams, *, noise: Noise) -> Tensor:
    """Walk along the linearized boundary to each target and keep the nearest point that fools the model.

    An image that is wrong as it is comes back as it is. See :class:`models.attacks.spec.Attack`.
    """

    def attack(victim: Victim, images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        return _restarts(victim, images, labels, params=params, noise=noise)

    # A step holds both ways to the hyperplane of every row.
    parts = in_parts(attack, rows=2 * params.targets)
    return smallest_confirmed(parts, victim, images.detach(), labels, noise=noise)


def _restarts(victim: Victim, images: Tensor, labels: Tensor, *, params: FABTParams, noise: Noise) -> Tensor:
    threat = threat_model(params.norm, params.eps)
    logits = victim.logits(images)
    targets = likeliest_others(logits, labels, count=params.targets)
    best = Smallest.unknown(images)
    index = is_right(logits, labels).nonzero().squeeze(1)
    noise = noise.select(index)
    for restart in range(params.restarts):
        if not len(index):
            break
        rows = _Rows.of(images, labels, targets, index=index)
        if restart:
            rows.points = _around(rows, noise, params=params, norms=best.norms[index])
        _walk(victim, rows, best, params=params, threat=threat)
        if params.stop_inside:
            standing = best.norms[index] > params.eps
            noise, index = noise.select(standing), index[standing]
    return best.images


def _around(rows: _Rows, noise: Noise, *, params: FABTParams, norms: Tensor) -> Tensor:
    """Points at half of eps from the images, or of the best norm where that is less; each row has its own."""
    count = len(rows.targets) // len(rows.index)
    draw = noise.uniform if params.norm == "linf" else noise.normal
    direction = draw(rows.points.view(-1, count, *rows.points.shape[1:])).view_as(rows.points)
    length = norms.clamp_max(params.eps).repeat_interleave(count) / 2
    unit = direction / _image_wise(threat_model(params.norm, params.eps).size(direction))
    return (rows.points + _image_wise(length) * unit).clamp(0, 1)


def _walk(victim: Victim, rows: _Rows, best: Smallest, *, params: FABTParams, threat: Threat) -> None:
    """One run of algorithm 1 from ``rows.points``; what it finds goes to ``best``."""
    for _ in range(params.steps):
        _, values, gradients = victim.gradient(rows.points, target_margin, rows.labels, rows.targets)
        rows.points = _biased_step(rows, values, gradients, params=params, threat=threat)
        logits = victim.glance(rows.points)
        sizes = threat.size(rows.points - rows.origins)
        fooled = ~is_right(logits, rows.labels)
        if params.stop_inside:
            # What the image is to leave with must be wrong in float32.
            near = fooled & (sizes <= params.eps)
            fooled[near] = victim.fooled(rows.points[near], rows.labels[near], logits=logits[near])
        _keep_nearest(rows, best, sizes=sizes.where(fooled, torch.inf))
        rows.points = torch.where(_image_wise(fooled), torch.lerp(rows.origins, rows.points, params.beta), rows.points)
        if params.stop_inside:
            rows.keep(best.norms[rows.index] > params.eps)
            if not len(rows.index):
                break


def _biased_step(rows: _Rows, values: Tensor, gradients: Tensor, *, params: FABTParams, threat: Threat) -> Tensor:
    """(1 − α)(x' + η δ') + α(x + η δ), δ' and δ from the point and from the image to the linearized boundary."""
    here = to_hyperplane(rows.points, gradients, values, norm=params.norm)
    values_at_origin = values + ((rows.origins - rows.points) * gradients).flatten(1).sum(dim=1)
    home = to_hyperplane(rows.origins, gradients, values_at_origin, norm=params.norm)
    way, way_home = threat.size(here).clamp_min(_SHORTEST), threat.size(home).clamp_min(_SHORTEST)
    alpha = (way / (way + way_home)).clamp_max(params.alpha_max)
    points, origins = rows.points + params.eta * here, rows.origins + params.eta * home
    return torch.lerp(points, origins, _image_wise(alpha)).clamp(0, 1)


def _keep_nearest(rows: _Rows, best: Smallest, *, sizes: Tensor) -> None:
    """Give ``best`` each image's nearest row; ``sizes`` (N·T,) are infinite where a row fools nobody."""
    count = len(sizes) // len(rows.index)
    smallest, row = sizes.view(-1, count).min(dim=1)
    first = torch.arange(len(rows.index), device=row.device) * count
    best.update(rows.index, rows.points[first + row], smallest)


def _image_wise(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


ATTACKS.add(
    "fab-t",
    Attack(
        name="fab-t",
        title="FAB-T",
        params=FABTParams,
        run=run,
        source="Croce, Hein: Minimally distorted Adversarial Examples with a Fast Adaptive Boundary Attack, ICML 2020, "
        "arXiv:1907.02044",
        formula="x' ← (1 − α)(x' + η δ') + α(x + η δ), δ' and δ to {h_t = h_y} linearized at x', from x' and from x; "
        "fooled: x' ← x + β(x' − x)",
        minimum_norm=True,
    ),
)
