"""FMN: the Fast Minimum-Norm attack, L2 and Linf (Pintor et al. 2021, algorithm 1)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.attacks.minimum_norm import (
    MinimumNormParams,
    Smallest,
    distance_to_boundary,
    smallest_confirmed,
)
from models.attacks.noise import Noise
from models.attacks.objectives import is_right, margin
from models.attacks.spec import ATTACKS, Attack, Norm
from models.attacks.threat import L2, threat_model
from models.attacks.victim import Victim

_LAST_STEP = 0.01  # share of the first step; as in the authors' code
_LAST_GAMMA = 0.001  # as there
_TINY = 1e-30


class FMNParams(MinimumNormParams):
    """FMN; practically every image falls, and the norms are close to those of far longer searches."""

    name: Literal["fmn"] = "fmn"
    steps: int = Field(100, ge=1, le=100_000, description="gradient steps; more give smaller norms")
    step_size: float = Field(
        1, gt=0, le=1_000, description="α₀: L2 length of the first step, pixels in [0, 1]; falls to a hundredth"
    )
    gamma: float = Field(
        0.05, gt=0, lt=1, description="γ₀: share by which the ball first grows or shrinks; falls to 0.001"
    )

    @property
    def cost(self) -> float:
        return float(self.steps)


def run(victim: Victim, images: Tensor, labels: Tensor, params: FMNParams, *, noise: Noise) -> Tensor:
    """Climb the margin in a ball that shrinks while the model is fooled and grows while it is not.

    A failure returns the clean image; see :class:`models.attacks.spec.Attack`.
    """

    def attack(victim: Victim, images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        del noise  # The attack starts at the image and draws nothing.
        return _search(victim, images, labels, params=params)

    return smallest_confirmed(attack, victim, images.detach(), labels, noise=noise)


def _search(victim: Victim, images: Tensor, labels: Tensor, *, params: FMNParams) -> Tensor:
    threat = threat_model(params.norm, 0)
    best = Smallest.unknown(images)
    farthest = threat.size(torch.maximum(images, 1 - images))
    points, radii = images.clone(), torch.full_like(farthest, math.inf)
    everyone = torch.arange(len(images), device=images.device)
    for step in range(params.steps):
        cosine = (1 + math.cos(math.pi * step / params.steps)) / 2
        step_size = params.step_size * (_LAST_STEP + (1 - _LAST_STEP) * cosine)
        gamma = _LAST_GAMMA + (params.gamma - _LAST_GAMMA) * cosine

        logits, ahead, gradient = victim.gradient(points, margin, labels)
        fooled = ~is_right(logits, labels)
        sizes = threat.size(points - images)
        best.update(everyone, points, sizes.where(fooled, math.inf))

        # Until the model is fooled for the first time, the ball reaches to where a linear model would be.
        boundary = sizes + distance_to_boundary(ahead, gradient, norm=params.norm)
        outside = torch.where(best.norms.isinf(), boundary, radii * (1 + gamma))
        inside = torch.minimum(radii * (1 - gamma), best.norms)
        radii = torch.minimum(torch.where(fooled, inside, outside), farthest)
        delta = points - images + L2(0).step(gradient, step_size)
        points = (images + _project(delta, radii, norm=params.norm)).clamp(0, 1)
    # In such a ball many points only creep up to the boundary; the line search to come takes them across.
    return points.where(best.norms.isinf().view(-1, 1, 1, 1), best.images)


def _project(delta: Tensor, radii: Tensor, *, norm: Norm) -> Tensor:
    """The nearest point to ``delta`` (N, C, H, W) of a ball with each image's own radius (N,)."""
    bounds = radii.view(-1, 1, 1, 1)
    if norm == "linf":
        return torch.minimum(torch.maximum(delta, -bounds), bounds)
    sizes = threat_model(norm, 0).size(delta).view(-1, 1, 1, 1)
    return delta * (bounds / sizes.clamp_min(_TINY)).clamp_max(1)


ATTACKS.add(
    "fmn",
    Attack(
        name="fmn",
        title="FMN",
        params=FMNParams,
        run=run,
        source="Pintor, Roli, Brendel, Biggio: Fast Minimum-norm Adversarial Attacks through Adaptive Norm "
        "Constraints, NeurIPS 2021, arXiv:2102.12827",
        formula="δ ← Π_{‖δ‖ ≤ ε}(δ + α ∇m/‖∇m‖₂), m = max_{i≠y} h_i − h_y; ε ← (1 − γ)ε where fooled, else (1 + γ)ε",
        minimum_norm=True,
    ),
)
