"""What minimum-norm attacks share: their parameters, the best point so far, and its confirmation in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from models.attacks.noise import Noise
from models.attacks.objectives import margin
from models.attacks.spec import AttackParams, Norm
from models.attacks.victim import Victim
from models.fields import Pixels, pixel_schema

_TINY = 1e-30
_SPREAD = 0.1  # how far before or beyond the found point the boundary is looked for, as a share of the perturbation
_HALVINGS = 5
_NUMBERS_AT_ONCE = 2**25  # of one tensor: 128 MB in float32

Search = Callable[[Victim, Tensor, Tensor, Noise], Tensor]
"""(victim, images, labels, noise) → points (N, C, H, W), the clean image where it came near none.

It draws from ``noise.select(...)`` alone, so that searching an image again meets the same numbers."""


class MinimumNormParams(AttackParams):
    """Parameters of a minimum-norm attack; without ``eps`` the norms are the result, not an accuracy."""

    norm: Norm = Field("l2", description="norm of the perturbation that is made small")
    eps: Pixels | None = Field(
        None,
        ge=0,
        le=1_000,
        json_schema_extra=pixel_schema(null=True),
        description="radius at which robust accuracy is counted, pixels in [0, 1]; null: none; at most 1 for linf",
    )

    @field_validator("eps")
    @classmethod
    def _inside_the_pixel_range(cls, eps: float | None, info: ValidationInfo) -> float | None:
        if eps is not None and info.data.get("norm") == "linf" and eps > 1:
            raise ValueError(f'pixels lie in [0, 1], so an linf radius is at most 1; 8-bit steps are "{eps:g}/255"')
        return eps

    @property
    def radius(self) -> tuple[Norm, float] | None:
        return None if self.eps is None else (self.norm, self.eps)


@dataclass
class Smallest:
    """The smallest successful perturbation of each image so far; infinite norm: none yet, the image itself."""

    images: Tensor
    norms: Tensor

    @classmethod
    def unknown(cls, images: Tensor) -> Self:
        return cls(images.clone(), images.new_full((len(images),), torch.inf))

    def update(self, rows: Tensor, points: Tensor, norms: Tensor) -> None:
        """Keep ``points`` for those of ``rows`` (each at most once) whose norm is smaller than what they have."""
        closer = norms < self.norms[rows]
        self.images[rows[closer]] = points[closer]
        self.norms[rows[closer]] = norms[closer]


def likeliest_others(logits: Tensor, labels: Tensor, *, count: int) -> Tensor:
    """The classes beside the label with the largest logits (N, K), largest first: (N, min(count, K − 1))."""
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices


def target_margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """h_t − h_y of logits (N, K): (N,)."""
    return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)


def distance_to_boundary(values: Tensor, gradients: Tensor, *, norm: Norm) -> Tensor:
    """|f| / ‖∇f‖ in the dual norm (N,): how far f = 0 is, in ``norm``, if f is linear; infinite for a zero gradient."""
    # Squares of a confident model's gradient would vanish in float32.
    largest = gradients.abs().flatten(1).amax(dim=1).clamp_min(_TINY)
    scaled = gradients.flatten(1) / largest[:, None]
    sizes = scaled.abs().sum(dim=1) if norm == "linf" else torch.linalg.vector_norm(scaled, dim=1)
    return values.abs() / largest / sizes.clamp_min(_TINY)


def in_parts(search: Search, *, rows: int) -> Search:
    """``search`` on a part of the images at a time: with ``rows`` rows of state an image, memory stays bounded."""

    def part_by_part(victim: Victim, images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        size = max(1, _NUMBERS_AT_ONCE // (rows * max(images[:1].numel(), 1)))
        parts = torch.split(torch.arange(len(images), device=images.device), size)
        return torch.cat([search(victim, images[part], labels[part], noise.select(part)) for part in parts])

    return part_by_part


def smallest_confirmed(
    search: Search, victim: Victim, images: Tensor, labels: Tensor, *, noise: Noise, lead: float = 0.0
) -> Tensor:
    """The points that ``search`` finds, each moved along its own line from the image to where float32 changes its mind.

    Such points lie on the decision boundary, where low precision misjudges about every second one. An image whose
    line does not cross the boundary near the found point in float32 is searched again with exact gradients; if that
    does not help it comes back clean. ``lead``: logit by which the wrong class must be ahead.
    """
    found = search(victim, images, labels, noise)
    points, settled = _settled(victim, images, labels, found=found, lead=lead)
    if bool(settled.all()):
        return points
    failed = (~settled).nonzero().squeeze(1)
    points[failed] = images[failed]
    if not victim.is_exact:
        points[failed] = smallest_confirmed(
            search, victim.exact(), images[failed], labels[failed], noise=noise.select(failed), lead=lead
        )
    return points


def _settled(victim: Victim, images: Tensor, labels: Tensor, *, found: Tensor, lead: float) -> tuple[Tensor, Tensor]:
    """Points at the float32 boundary on the line from each image through ``found``, and where there is one."""

    def at(scale: Tensor) -> Tensor:
        return (images + scale.view(-1, 1, 1, 1) * (found - images)).clamp(0, 1)

    def beaten(points: Tensor) -> Tensor:
        ahead = margin(victim.logits(points), labels)
        return (ahead >= 0) & (ahead >= lead)

    confirmed = beaten(found)
    far = torch.where(confirmed, 1.0, 1 + _SPREAD)
    near = far - _SPREAD
    points = found.where(_image_wise(confirmed), at(far))
    settled = confirmed | beaten(points)
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        candidates = at(middle)
        inside = beaten(candidates)
        far, near = middle.where(inside, far), near.where(inside, middle)
        points = candidates.where(_image_wise(inside), points)
    return points, settled & (found != images).flatten(1).any(dim=1)


def _image_wise(chosen: Tensor) -> Tensor:
    return chosen.view(-1, 1, 1, 1)
