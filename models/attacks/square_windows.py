"""The moves of the Square Attack: where its windows lie, how large they are, and what goes into them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from models.attacks.spec import Norm

_TINY = 1e-12
_USUAL_QUERIES = 10_000
_HALVED_AFTER = (10, 50, 200, 500, 1_000, 2_000, 4_000, 6_000, 8_000)


def share_of_pixels(query: int, *, queries: int, p_init: float) -> float:
    """The share p of algorithm 1: halved at nine moments of 10,000 queries (§5), rescaled to ``queries`` of them."""
    moment = int(query / queries * _USUAL_QUERIES)
    return math.ldexp(p_init, -sum(moment > limit for limit in _HALVED_AFTER))


class Moves(Protocol):
    """Random moves of one norm on images (N, C, H, W); ``chances`` are numbers from [-1, 1] that decide them."""

    def start_chances(self, images: Tensor) -> tuple[int, ...]:
        """Shape of the chances that one image's start needs."""

    def start(self, images: Tensor, chances: Tensor) -> Tensor:
        """The first points, in the ball and in [0, 1]; ``chances`` (N, *start_chances)."""

    def move_chances(self, images: Tensor) -> int:
        """How many chances one image's move needs."""

    def move(self, points: Tensor, images: Tensor, *, share: float, chances: Tensor) -> Tensor:
        """New points, in the ball and in [0, 1]; ``chances`` (N, move_chances), ``share``: see above."""


class LinfMoves:
    """Stripes, then squares of one colour at ±eps (algorithm 2)."""

    def __init__(self, eps: float) -> None:
        self._eps = eps

    def start_chances(self, images: Tensor) -> tuple[int, ...]:
        return images.shape[1], 1, images.shape[3]

    def start(self, images: Tensor, chances: Tensor) -> Tensor:
        return (images + self._eps * _signs(chances)).clamp(0, 1)

    def move_chances(self, images: Tensor) -> int:
        return 2 + images.shape[1]

    def move(self, points: Tensor, images: Tensor, *, share: float, chances: Tensor) -> Tensor:
        side = _side(images, share, least=1)
        inside = _window(images, side, chances[:, :2])
        # Adding ±2 eps and projecting, as algorithm 2 does, ends at ±eps wherever the pixel was.
        colour = self._eps * _signs(chances[:, 2:, None, None])
        return torch.where(inside, (images + colour).clamp(0, 1), points)


class L2Moves:
    """A grid of ±eta, then one window's perturbation moved into another (algorithm 3)."""

    def __init__(self, eps: float) -> None:
        self._eps = eps

    def start_chances(self, images: Tensor) -> tuple[int, ...]:
        rows, columns = (len(range(*_tiles(length, _tile(images)))) for length in images.shape[2:])
        return rows * columns, 1 + images.shape[1]

    def start(self, images: Tensor, chances: Tensor) -> Tensor:
        tile = _tile(images)
        rows, columns = (range(*_tiles(length, tile)) for length in images.shape[2:])
        delta = torch.zeros_like(images)
        corners = [(row, column) for row in rows for column in columns]
        for (row, column), chance in zip(corners, chances.unbind(dim=1), strict=True):
            delta[:, :, row : row + tile, column : column + tile] = _bumps(chance, tile)
        return self._filled(images, delta)

    def move_chances(self, images: Tensor) -> int:
        return 5 + images.shape[1]

    def move(self, points: Tensor, images: Tensor, *, share: float, chances: Tensor) -> Tensor:
        side = _side(images, share, least=3, odd=True)
        delta = points - images
        here, there = _window(images, side, chances[:, :2]), _window(images, side, chances[:, 2:4])
        budget = (self._eps**2 - _norms(delta, (1, 2, 3)).square()).clamp_min(0) / images.shape[1]
        budget = (budget + _norms(delta * (here | there), (1, 2, 3)).square()).sqrt()
        old = delta[here.expand_as(delta)].view(*images.shape[:2], side, side)
        new = _bumps(chances[:, 4:], side) + old / (_norms(old, (2, 3)) + _TINY)
        new = new / (_norms(new, (2, 3)) + _TINY) * budget
        delta = delta.masked_fill(there, 0)
        delta[here.expand_as(delta)] = new.flatten()
        return self._filled(images, delta)

    def _filled(self, images: Tensor, delta: Tensor) -> Tensor:
        """The points whose perturbation has length eps before clamping."""
        return (images + self._eps * delta / (_norms(delta, (1, 2, 3)) + _TINY)).clamp(0, 1)


_MOVES: dict[Norm, type[LinfMoves] | type[L2Moves]] = {"linf": LinfMoves, "l2": L2Moves}


def moves_in(norm: Norm, eps: float) -> Moves:
    """The moves inside the ball of ``norm`` and radius ``eps`` (pixels in [0, 1])."""
    return _MOVES[norm](eps)


@lru_cache(maxsize=64)
def eta(side: int) -> Tensor:
    """The pattern of §3.3: two heaps of opposite sign, each falling off from its centre; (side, side), length 1.

    On the CPU, and shared between calls: not to be written to.
    """
    upper, lower = _heap(side // 2, side), _heap(side - side // 2, side)
    pattern = torch.cat([upper, -lower])
    return pattern / pattern.square().sum().sqrt()


def _heap(rows: int, columns: int) -> Tensor:
    """Σ_k 1/(k+1)² over concentric squares of growing side 2k+1 cut off at the edges (eq. 2), scaled to length 1."""
    centre_row, centre_column = rows // 2, columns // 2
    heap = torch.zeros(rows, columns)
    for k in range(max(centre_row, centre_column) + 1):
        top, left = max(centre_row - k, 0), max(centre_column - k, 0)
        heap[top : centre_row + k + 1, left : centre_column + k + 1] += 1 / (k + 1) ** 2
    return heap / heap.square().sum().sqrt().clamp_min(_TINY)


def _bumps(chances: Tensor, side: int) -> Tensor:
    """±eta for each channel, lying down or standing up by the first of ``chances`` (N, 1 + C): (N, C, side, side)."""
    pattern = eta(side).to(chances)
    lying = (chances[:, 0] > 0).view(-1, 1, 1, 1)
    return torch.where(lying, pattern.T, pattern) * _signs(chances[:, 1:, None, None])


def _side(images: Tensor, share: float, *, least: int, odd: bool = False) -> int:
    """Side of a square with ``share`` of an image's pixels, at least ``least`` and inside the image."""
    height, width = images.shape[2:]
    side = max(round(math.sqrt(share * height * width)), least)
    if odd and side % 2 == 0:
        side += 1
    return min(side, height, width)


def _window(images: Tensor, side: int, chances: Tensor) -> Tensor:
    """Where one square of each image lies, boolean (N, 1, H, W); its corner is uniform (algorithms 2 and 3)."""
    inside = []
    for length, chance in zip(images.shape[2:], chances.unbind(dim=1), strict=True):
        places = length - side + 1
        start = ((chance + 1) / 2 * places).long().clamp(0, places - 1)[:, None]
        cells = torch.arange(length, device=images.device)
        inside.append((cells >= start) & (cells < start + side))
    rows, columns = inside
    return rows[:, None, :, None] & columns[:, None, None, :]


def _tile(images: Tensor) -> int:
    """Side of the start's tiles: five of them to the shorter side of the image."""
    return max(min(images.shape[2:]) // 5, 1)


def _tiles(length: int, tile: int) -> tuple[int, int, int]:
    """First, end and step of as many whole tiles as fit, in the middle."""
    first = length % tile // 2
    return first, first + length // tile * tile, tile


def _signs(chances: Tensor) -> Tensor:
    return torch.where(chances < 0, -1.0, 1.0).to(chances)


def _norms(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    norms = values
    for dim in reversed(dims):  # one at a time, as L2.size does
        norms = torch.linalg.vector_norm(norms, dim=dim, keepdim=True)
    return norms
