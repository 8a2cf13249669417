"""The projection onto a hyperplane inside the pixel range, against scipy's solvers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, linprog
from torch import Tensor

from models.attacks.hyperplane import to_hyperplane

PIXELS = 30


def planes(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Many black and white pixels, normals with very different entries, and gaps that can be closed or not."""
    generator = torch.Generator().manual_seed(1)
    points = (torch.rand(count, 2, 3, 5, generator=generator) * 1.6 - 0.3).clamp(0, 1)
    normals = torch.randn(count, 2, 3, 5, generator=generator) ** 3
    normals[:, 0, 0, 0] = 0
    gaps = torch.randn(count, generator=generator) * normals.flatten(1).abs().sum(dim=1) / 4
    return points, normals, gaps


def by_linear_program(x: np.ndarray, w: np.ndarray, gap: float) -> float | None:
    """The smallest t with |δ_i| ≤ t, w·δ = −gap and x + δ in [0, 1]."""
    identity, ones = np.eye(len(x)), -np.ones((len(x), 1))
    solved = linprog(
        np.r_[np.zeros(len(x)), 1],
        A_ub=np.r_[np.c_[identity, ones], np.c_[-identity, ones]],
        b_ub=np.zeros(2 * len(x)),
        A_eq=np.r_[w, 0][None],
        b_eq=[-gap],
        bounds=[*zip(-x, 1 - x, strict=True), (0, None)],
    )
    return solved.x[-1] if solved.success else None


def by_multiplier(x: np.ndarray, w: np.ndarray, gap: float) -> float | None:
    """‖δ‖₂ at the root of its Lagrange multiplier: δ = clip(μw) to the box."""

    def moved(multiplier: float) -> np.ndarray:
        return np.clip(x + multiplier * w, 0, 1) - x

    far = 1e6 * -np.sign(gap)
    if np.sign(w @ moved(far) + gap) == np.sign(gap):
        return None
    return float(np.linalg.norm(moved(brentq(lambda multiplier: w @ moved(multiplier) + gap, 0, far, xtol=1e-14))))


@pytest.mark.parametrize(("norm", "solve"), [("linf", by_linear_program), ("l2", by_multiplier)])
def test_the_way_is_as_short_as_an_exact_solver_finds(norm, solve):
    points, normals, gaps = planes(120)
    moves = to_hyperplane(points, normals, gaps, norm=norm)
    feasible = 0
    for index in range(120):
        x, w, move = (tensor[index].flatten().double().numpy() for tensor in (points, normals, moves))
        assert (x + move).min() >= -1e-7 and (x + move).max() <= 1 + 1e-7
        shortest = solve(x, w, float(gaps[index]))
        if shortest is None:
            # The nearest corner: every pixel that matters at the border that lies that way.
            np.testing.assert_allclose((x + move)[w != 0], (w * float(gaps[index]) < 0)[w != 0], atol=1e-6)
            continue
        feasible += 1
        assert abs(w @ move + float(gaps[index])) <= 1e-5 * abs(float(gaps[index])) + 1e-7
        length = np.abs(move).max() if norm == "linf" else np.linalg.norm(move)
        assert length == pytest.approx(shortest, rel=1e-4, abs=1e-6)
    assert 40 < feasible < 120


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_scale_of_the_plane_does_not_matter(norm):
    points, normals, gaps = planes(50)
    tiny = 2.0**-90  # squares of such entries are zero in float32
    moves = to_hyperplane(points, normals, gaps, norm=norm)
    torch.testing.assert_close(to_hyperplane(points, normals * tiny, gaps * tiny, norm=norm), moves)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nothing_moves_without_a_gap_or_without_a_plane(norm):
    points, normals, gaps = planes(20)
    assert not to_hyperplane(points, normals, torch.zeros(20), norm=norm).any()
    assert not to_hyperplane(points, torch.zeros_like(normals), gaps, norm=norm).any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_row_does_not_depend_on_its_batch(norm):
    points, normals, gaps = planes(60)
    together = to_hyperplane(points, normals, gaps, norm=norm)
    alone = torch.cat(
        [to_hyperplane(points[i : i + 1], normals[i : i + 1], gaps[i : i + 1], norm=norm) for i in range(60)]
    )
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
