"""Auto-PGD (Croce and Hein 2020, algorithm 1): projected gradient ascent whose step size needs no tuning."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from pydantic import Field
from torch import Tensor

from models.attacks.noise import Noise
from models.attacks.objectives import is_right
from models.attacks.spec import BoundedParams
from models.attacks.threat import Threat, threat_model
from models.attacks.victim import Ascent, Objective, Victim

_MOMENTUM = 0.75  # α: the share of the new step
_FIRST_STEP = 2.0  # as a multiple of eps
_STATE_BYTES = 64 * 2**20  # one tensor of all rows; about ten of them live at a time


class APGDParams(BoundedParams):
    """What the members of the family share; the defaults are the paper's."""

    steps: int = Field(100, ge=1, le=10_000, description="gradient steps a restart")
    restarts: int = Field(1, ge=1, le=1_000, description="runs from different random starts; any of them may succeed")
    rho: float = Field(
        0.75, ge=0, le=1, description="ρ: share of steps between two checkpoints that must climb, or the step is halved"
    )

    @property
    def cost(self) -> float:
        return float(self.steps * self.restarts)


class TargetedAPGDParams(APGDParams):
    """APGD towards one wrong class after the other."""

    targets: int = Field(
        9, ge=1, le=1_000, description="wrong classes tried, those with the highest clean logits; at most all of them"
    )

    @property
    def cost(self) -> float:
        return super().cost * self.targets


def auto_pgd(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    *,
    objective: Objective,
    params: APGDParams,
    noise: Noise,
    targets: Tensor | None = None,
) -> Tensor:
    """Climb ``objective(logits, labels)``, or ``objective(logits, labels, targets)``, inside the ball of ``params``.

    ``targets``: int64 (N, T), each image is attacked towards each of its T classes at the same time. An image leaves
    with the first iterate that the victim gets wrong, whichever class it takes it for; among the targets that break
    it in the same step, the first in its row counts. An image that survives keeps the iterate of the highest
    objective (of its first target) in its last restart.
    """
    found = images.detach().clone()
    if not len(images):
        return found
    rows = 1 if targets is None else targets.shape[1]
    at_once = max(1, _STATE_BYTES // (images[0].nbytes * rows))
    for start in range(0, len(images), at_once):
        part = torch.arange(start, min(start + at_once, len(images)), device=images.device)
        facts = labels[part][:, None]
        own_noise = noise.select(part)
        if targets is not None:
            facts = torch.stack([facts.expand(-1, rows), targets[part]], dim=2).flatten(0, 1)
            own_noise = own_noise.repeat(rows)
        owners = torch.arange(len(part), device=images.device).repeat_interleave(rows)
        found[part] = _restarted(
            victim, found[part], owners, facts=facts, objective=objective, params=params, noise=own_noise
        )
    return found


@dataclass
class _Rows:
    """R runs on their way, each of one image and, if the attack is targeted, one target. First dimensions are R.

    ``position``: place among the rows that began; ``owner``: index of the image, never falling from row to row;
    ``facts`` int64 (R, 1 or 2): label, target. ``rises``: steps since the last checkpoint that raised the objective;
    ``halved``: whether that checkpoint halved the step.
    """

    position: Tensor
    owner: Tensor
    facts: Tensor
    images: Tensor
    points: Tensor
    before: Tensor
    gradient: Tensor
    value: Tensor
    best: Tensor
    best_gradient: Tensor
    best_value: Tensor
    checked_value: Tensor
    rises: Tensor
    halved: Tensor
    step_size: Tensor

    @classmethod
    def started(cls, images: Tensor, owner: Tensor, *, facts: Tensor, points: Tensor, step_size: float) -> _Rows:
        # The authors' code compares the objective after the first step with zero, not with its value at the start;
        # published figures were made so.
        zero = images.new_zeros(len(images))
        return cls(
            position=torch.arange(len(images), device=images.device),
            owner=owner,
            facts=facts,
            images=images,
            points=points,
            before=points,
            gradient=torch.zeros_like(points),
            value=zero,
            best=points,
            best_gradient=torch.zeros_like(points),
            best_value=torch.full_like(zero, -torch.inf),
            checked_value=zero,
            rises=zero,
            halved=torch.ones_like(zero, dtype=torch.bool),
            step_size=torch.full_like(zero, step_size).view(-1, *[1] * (images.dim() - 1)),
        )

    @property
    def labels(self) -> Tensor:
        return self.facts[:, 0]

    def select(self, chosen: Tensor) -> _Rows:
        return _Rows(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def arrive(self, values: Tensor, gradient: Tensor) -> None:
        """Take in where the points stand, and remember the best."""
        higher = values > self.best_value
        self.best = torch.where(_wide(higher, self.points), self.points, self.best)
        self.best_gradient = torch.where(_wide(higher, self.points), gradient, self.best_gradient)
        self.best_value = torch.where(higher, values, self.best_value)
        self.gradient = gradient

    def count(self, values: Tensor) -> None:
        """Compare with the step before."""
        self.rises = self.rises + (values > self.value)
        self.value = values

    def check(self, window: int, *, rho: float) -> None:
        """The two conditions of algorithm 1: too rare or no progress halves the step and returns to the best point."""
        halve = (self.rises <= rho * window) | (~self.halved & (self.checked_value >= self.best_value))
        self.step_size = torch.where(_wide(halve, self.points), self.step_size / 2, self.step_size)
        self.points = torch.where(_wide(halve, self.points), self.best, self.points)
        self.gradient = torch.where(_wide(halve, self.points), self.best_gradient, self.gradient)
        self.halved, self.checked_value, self.rises = halve, self.best_value, torch.zeros_like(self.rises)

    def move(self, threat: Threat, *, share: float) -> None:
        """A projected step, of which ``share`` is new, and the rest is the last move again."""
        stepped = self._inside(self.points + self.step_size * threat.step(self.gradient, 1.0), threat)
        momentum = self.points - self.before
        self.before = self.points
        self.points = self._inside(self.points + share * (stepped - self.points) + (1 - share) * momentum, threat)

    def _inside(self, points: Tensor, threat: Threat) -> Tensor:
        return (self.images + threat.project(points - self.images)).clamp(0, 1)


def _restarted(
    victim: Victim,
    images: Tensor,
    owners: Tensor,
    *,
    facts: Tensor,
    objective: Objective,
    params: APGDParams,
    noise: Noise,
) -> Tensor:
    """Points of images that fit into memory; ``owners`` and ``facts`` are those of :class:`_Rows`, as is ``noise``."""
    threat = threat_model(params.norm, params.eps)
    found = images.clone()
    for _ in range(params.restarts):
        clean = images[owners]
        points = _random_start(clean, params=params, threat=threat, noise=noise)
        rows = _Rows.started(clean, owners, facts=facts, points=points, step_size=_FIRST_STEP * params.eps)
        standing = _one_run(victim, rows, found, objective=objective, params=params, threat=threat)
        if not len(standing):
            break
        noise, owners, facts = noise.select(standing), owners[standing], facts[standing]
    return found


def _one_run(
    victim: Victim, rows: _Rows, found: Tensor, *, objective: Objective, params: APGDParams, threat: Threat
) -> Tensor:
    """Positions of the rows whose image no iterate broke; the points of all images go into ``found``."""
    windows = checkpoints(params.steps)
    for step in range(params.steps):
        ascent = victim.gradient(rows.points, objective, *rows.facts.unbind(1))
        fooled = victim.fooled(rows.points, rows.labels, logits=ascent.logits)
        if bool(fooled.any()):
            standing = _settle(rows, fooled, found)
            rows, ascent = rows.select(standing), Ascent(*(values[standing] for values in ascent))
            if not len(rows.points):
                return rows.position
        rows.arrive(ascent.values, ascent.gradient)
        if step == 0:
            rows.checked_value = ascent.values
        else:
            rows.count(ascent.values)
        if step in windows:
            rows.check(windows[step], rho=params.rho)
        rows.move(threat, share=_MOMENTUM if step else 1.0)
    logits = victim.logits(rows.points)
    values = objective(logits, *rows.facts.unbind(1))
    standing = _settle(rows, ~is_right(logits, rows.labels), found)
    rows.arrive(values, rows.gradient)  # there is no gradient here any more, and no step that would need it
    rows = rows.select(standing)
    first = _first_of_each(rows.owner)
    found[rows.owner[first]] = rows.best[first]
    return rows.position


def _settle(rows: _Rows, fooled: Tensor, found: Tensor) -> Tensor:
    """Write each broken image's first fooling row into ``found``; boolean (R,): rows whose image still stands."""
    owner = rows.owner[fooled]
    first = _first_of_each(owner)
    found[owner[first]] = rows.points[fooled][first]
    broken = torch.zeros(len(found), dtype=torch.bool, device=found.device)
    broken[owner] = True
    return ~broken[rows.owner]


def _first_of_each(owner: Tensor) -> Tensor:
    """Boolean (R,): the first row of each image; ``owner`` never falls."""
    first = torch.ones_like(owner, dtype=torch.bool)
    first[1:] = owner[1:] != owner[:-1]
    return first


def checkpoints(steps: int) -> dict[int, int]:
    """Steps after which the step size is looked at, with the number of steps since the look before.

    In hundredths of ``steps``: 22, 41, 57, 70, 80, 87, 93, 99, each distance 3 shorter than the last but at least 6.
    """
    window, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    found, at = {}, window
    while at <= steps:
        found[at] = window
        window = max(window - shrink, least)
        at += window
    return found


def _random_start(images: Tensor, *, params: APGDParams, threat: Threat, noise: Noise) -> Tensor:
    """On the sphere of radius eps: uniform noise scaled until its largest pixel is eps, or a normal one's direction."""
    draw = {"linf": noise.uniform, "l2": noise.normal}[params.norm]
    direction = draw(images)
    return (images + params.eps * direction / _wide(threat.size(direction), images).clamp_min(1e-12)).clamp(0, 1)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """(R,) as (R, 1, 1, 1)."""
    return values.view(-1, *[1] * (like.dim() - 1))
