"""The shortest way from a point to a decision hyperplane that stays inside the pixel range."""

from __future__ import annotations

import torch
from torch import Tensor

from models.attacks.spec import Norm

_TINY = 1e-30
_CLOSE = 1e-6  # share of the way that may be missing: about what sums over an image's pixels round to in float32
_MOST_ROUNDS = 100


def to_hyperplane(points: Tensor, normals: Tensor, gaps: Tensor, *, norm: Norm) -> Tensor:
    """The smallest δ with w·δ + gap = 0 and points + δ in [0, 1] (Croce and Hein 2020, §2).

    ``points`` and ``normals`` w are (N, C, H, W), points in [0, 1]; ``gaps`` (N,) is what w·x − b is at the points.
    Where no point of the box lies on the hyperplane, δ leads to the corner of the box that comes nearest to it.

    A pixel i moves by min(λ·a_i, room_i) against the sign of gap·w_i, with a_i = 1 for linf and |w_i| for l2; room_i is
    its way to the border. Σ |w_i| min(λ·a_i, room_i) is concave in λ, so Newton's method started at λ = 0 never
    passes the solution and ends after as many rounds as there are linear pieces to cross.
    """
    shape = points.shape
    # Squares of a confident model's gradient would vanish in float32; a plane's equation can be scaled.
    largest = normals.abs().flatten(1).amax(dim=1, keepdim=True).clamp_min(_TINY)
    normals = normals.flatten(1) / largest
    way = -torch.where(gaps >= 0, 1.0, -1.0)[:, None] * normals.sign()
    room = torch.where(way > 0, 1 - points.flatten(1), points.flatten(1))
    weight = normals.abs()
    pace = weight if norm == "l2" else torch.ones_like(weight)
    reach = _reach(weight * pace, weight * room, gaps.abs() / largest.squeeze(1))
    return (way * torch.minimum(reach * pace, room)).view(shape)


def _reach(rates: Tensor, limits: Tensor, wanted: Tensor) -> Tensor:
    """The smallest λ (N, 1) with Σ min(λ·rates, limits) = wanted, or one that exhausts all limits if that is less."""
    reach = torch.zeros_like(wanted)
    for _ in range(_MOST_ROUNDS):
        gain = reach[:, None] * rates
        moving = gain < limits
        missing = wanted - torch.minimum(gain, limits).sum(dim=1)
        slope = (rates * moving).sum(dim=1)
        # A row that has arrived must stay as it is, however long the others of its batch take.
        going = (missing > _CLOSE * wanted) & (slope > 0)
        if not bool(going.any()):
            break
        reach = torch.where(going, reach + missing / slope.clamp_min(_TINY), reach)
    return reach[:, None]
