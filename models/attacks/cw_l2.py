"""CW-L2: the smallest L2 perturbation that fools the model (Carlini and Wagner 2017, §V-VI)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.attacks.minimum_norm import MinimumNormParams, Smallest, smallest_confirmed
from models.attacks.noise import Noise
from models.attacks.objectives import margin
from models.attacks.spec import ATTACKS, Attack
from models.attacks.victim import Victim

_INSIDE = 0.999999  # atanh of a black or white pixel is infinite; the authors' code shrinks by as much
_ADAM = (0.9, 0.999, 1e-8)
_CHECKS = 10  # looks at progress per binary search step, as in the authors' code


class CWL2Params(MinimumNormParams):
    """CW-L2; without ``eps`` practically every image falls, and the norms are the result."""

    name: Literal["cw-l2"] = "cw-l2"
    norm: Literal["l2"] = "l2"
    steps: int = Field(200, ge=1, le=100_000, description="Adam steps for each constant; more give smaller norms")
    binary_search_steps: int = Field(9, ge=1, le=100, description="constants tried for each image")
    initial_const: float = Field(1e-3, gt=0, le=1e10, description="first weight c of the margin")
    confidence: float = Field(0, ge=0, le=1_000, description="κ: logit by which the wrong class must lead")
    lr: float = Field(0.01, gt=0, le=10, description="learning rate of Adam in tanh space")
    abort_early: bool = Field(True, description="stop an image whose own loss no longer falls")

    @property
    def cost(self) -> float:
        return float(self.steps * self.binary_search_steps)


def run(victim: Victim, images: Tensor, labels: Tensor, params: CWL2Params, *, noise: Noise) -> Tensor:
    """Search c for each image on its own (eq. of §VI-A, f₆); a failure returns the clean image.

    Images do not influence each other: Adam's state, the constant and the decision to stop are each image's own.
    """

    def attack(victim: Victim, images: Tensor, labels: Tensor, noise: Noise) -> Tensor:
        del noise  # The attack starts at the image and draws nothing.
        return _search_constants(victim, images, labels, params=params)

    return smallest_confirmed(attack, victim, images.detach(), labels, noise=noise, lead=params.confidence)


def _search_constants(victim: Victim, images: Tensor, labels: Tensor, *, params: CWL2Params) -> Tensor:
    best = Smallest.unknown(images)
    const = images.new_full((len(images),), params.initial_const)
    lower, upper = torch.zeros_like(const), torch.full_like(const, math.inf)
    for _ in range(params.binary_search_steps):
        fooled = _minimize(victim, images, labels, const=const, params=params, best=best)
        upper = torch.where(fooled, torch.minimum(upper, const), upper)
        lower = torch.where(fooled, lower, torch.maximum(lower, const))
        const = torch.where(upper.isinf(), const * 10, (lower + upper) / 2)
    return best.images


def _minimize(
    victim: Victim, images: Tensor, labels: Tensor, *, const: Tensor, params: CWL2Params, best: Smallest
) -> Tensor:
    """Adam on ‖x' − x‖² + c·max(h_y − max_{i≠y} h_i, −κ), x' = ½(tanh w + 1); boolean (N,): c fooled the model."""
    w = torch.atanh((2 * images - 1) * _INSIDE)
    first, second = torch.zeros_like(w), torch.zeros_like(w)
    rows = torch.arange(len(images), device=images.device)
    fooled = torch.zeros_like(rows, dtype=torch.bool)
    lowest, checked = torch.full_like(const, math.inf), torch.full_like(const, math.inf)
    for step in range(params.steps):
        tangent = torch.tanh(w)
        points = (tangent + 1) / 2
        _, lead, climbing = victim.gradient(points, margin, labels[rows])
        delta = points - images[rows]
        squared = delta.square().flatten(1).sum(dim=1)
        success = (lead > 0) & (lead >= params.confidence)
        fooled[rows[success]] = True
        best.update(rows[success], points[success], squared[success].sqrt())

        loss = squared + const[rows] * (-lead).clamp_min(-params.confidence)
        lowest[rows] = torch.minimum(lowest[rows], loss)
        pull = (const[rows] * (lead <= params.confidence)).view(-1, 1, 1, 1)
        gradient = (2 * delta - pull * climbing) * (1 - tangent.square()) / 2
        if params.abort_early and step % math.ceil(params.steps / _CHECKS) == 0:
            # By the lowest loss since the last look: Adam swings, and the loss of one moment says little.
            falling = lowest[rows] <= 0.9999 * checked[rows]
            checked[rows] = lowest[rows]
            rows, w, gradient = rows[falling], w[falling], gradient[falling]
            first, second = first[falling], second[falling]
            if not len(rows):
                break
        w = _adam(w, gradient, first=first, second=second, step=step + 1, lr=params.lr)
    return fooled


def _adam(w: Tensor, gradient: Tensor, *, first: Tensor, second: Tensor, step: int, lr: float) -> Tensor:
    """One Adam step (Kingma and Ba 2015, algorithm 1), elementwise; both moments are updated in place."""
    beta1, beta2, small = _ADAM
    first.lerp_(gradient, 1 - beta1)
    second.lerp_(gradient.square(), 1 - beta2)
    return w - lr * (first / (1 - beta1**step)) / ((second / (1 - beta2**step)).sqrt() + small)


ATTACKS.add(
    "cw-l2",
    Attack(
        name="cw-l2",
        title="CW-L2",
        params=CWL2Params,
        run=run,
        source="Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks, IEEE S&P 2017, arXiv:1608.04644",
        formula="min_w ‖½(tanh w + 1) − x‖₂² + c·max(h_y − max_{i≠y} h_i, −κ), c by binary search for each image",
        minimum_norm=True,
    ),
)
