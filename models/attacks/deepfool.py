"""DeepFool, L2 and Linf (Moosavi-Dezfooli et al. 2016, algorithm 2 and §3.3)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.attacks.minimum_norm import (
    MinimumNormParams,
    distance_to_boundary,
    in_parts,
    likeliest_others,
    target_margin,
)
from models.attacks.noise import Noise
from models.attacks.objectives import is_right
from models.attacks.spec import ATTACKS, Attack, Norm
from models.attacks.threat import threat_model
from models.attacks.victim import Ascent, Victim

_NUDGE = 1e-4  # added to each step's length in the authors' code, so that the last steps do not get ever shorter
_FARTHEST = 1e6  # a flat model's boundary is infinitely far, and infinity times zero is no number


class DeepFoolParams(MinimumNormParams):
    """DeepFool: fast, and its norms are larger than those of the other minimum-norm attacks."""

    name: Literal["deepfool"] = "deepfool"
    steps: int = Field(50, ge=1, le=10_000, description="steps at most; an image leaves once it is misclassified")
    overshoot: float = Field(
        0.02, ge=0, le=10, description="η: share by which the perturbation goes beyond the boundary"
    )
    candidates: int = Field(10, ge=2, le=1_000, description="likeliest classes looked at, the label included")

    @property
    def cost(self) -> float:
        # Nearly every image leaves within a few steps, whatever their limit.
        return float(min(self.steps, 5) * (self.candidates - 1))


def run(victim: Victim, images: Tensor, labels: Tensor, params: DeepFoolParams, *, noise: Noise) -> Tensor:
    """Step to the nearest linearized boundary until the model is fooled; see :class:`models.attacks.spec.Attack`."""

    def attack(victim: Victim, images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        del noise  # The attack starts at the image and draws nothing.
        return _search(victim, images, labels, params=params)

    return in_parts(attack, rows=params.candidates)(victim, images.detach(), labels, noise)


def _search(victim: Victim, images: Tensor, labels: Tensor, *, params: DeepFoolParams) -> Tensor:
    """Fast gradients lead up to the boundary; who is not across in float32 goes on from there with exact ones."""
    targets = likeliest_others(victim.logits(images), labels, count=params.candidates - 1)
    points, moved = images.clone(), torch.zeros_like(images)
    left = torch.arange(len(images), device=images.device)
    for stage in [victim] if victim.is_exact else [victim, victim.exact()]:
        moved[left] = _walk(stage, images[left], labels[left], targets[left], moved=moved[left], params=params)
        points[left] = _moved(images[left], moved[left], params=params)
        left = left[victim.right(points[left], labels[left])]
        if not len(left):
            break
    points[left] = images[left]
    return points


def _walk(
    victim: Victim, images: Tensor, labels: Tensor, targets: Tensor, *, moved: Tensor, params: DeepFoolParams
) -> Tensor:
    """Add steps to ``moved``, the sum r of an image's steps, until the gradient's own logits are wrong."""
    left = torch.arange(len(images), device=images.device)
    for _ in range(params.steps):
        points = _moved(images[left], moved[left], params=params)
        # The first target's pass tells who is across, too; the other targets are for those that are not.
        first = victim.gradient(points, target_margin, labels[left], targets[left, 0])
        standing = is_right(first.logits, labels[left])
        left, points, first = left[standing], points[standing], Ascent(*(state[standing] for state in first))
        if not len(left):
            break
        moved[left] += _nearest(victim, points, labels[left], targets[left], first=first, norm=params.norm)
    return moved


def _moved(images: Tensor, moved: Tensor, *, params: DeepFoolParams) -> Tensor:
    return (images + (1 + params.overshoot) * moved).clamp(0, 1)


def _nearest(victim: Victim, points: Tensor, labels: Tensor, targets: Tensor, *, first: Ascent, norm: Norm) -> Tensor:
    """The step to the nearest of the boundaries {h_t = h_y}, linearized at ``points``; ``first``: target 0's."""
    values, gradients = first.values[:, None], first.gradient[:, None]
    others = targets[:, 1:]
    count = others.shape[1]
    if count:
        _, more_values, more_gradients = victim.gradient(
            points.repeat_interleave(count, dim=0), target_margin, labels.repeat_interleave(count), others.flatten()
        )
        values = torch.cat([values, more_values.view(-1, count)], dim=1)
        gradients = torch.cat([gradients, more_gradients.view(-1, count, *points.shape[1:])], dim=1)
    distances = distance_to_boundary(values.flatten(), gradients.flatten(0, 1), norm=norm).view_as(values)
    distance, nearest = distances.min(dim=1)
    gradient = gradients[torch.arange(len(points), device=points.device), nearest]
    return (distance.clamp_max(_FARTHEST) + _NUDGE).view(-1, 1, 1, 1) * threat_model(norm, 0).step(gradient, 1)


ATTACKS.add(
    "deepfool",
    Attack(
        name="deepfool",
        title="DeepFool",
        params=DeepFoolParams,
        run=run,
        source="Moosavi-Dezfooli, Fawzi, Frossard: DeepFool: a simple and accurate method to fool deep neural "
        "networks, CVPR 2016, arXiv:1511.04599",
        formula="r ← r + |f_k|/‖∇f_k‖_q · (step along ∇f_k), f_k = h_k − h_y, k the nearest; x' = x + (1 + η)r",
        minimum_norm=True,
    ),
)
