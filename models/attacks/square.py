"""Square Attack: random search with square windows, no gradient (Andriushchenko et al. 2020)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.attacks.noise import Noise
from models.attacks.objectives import margin
from models.attacks.spec import ATTACKS, FORWARD_COST, Attack, BoundedParams
from models.attacks.square_windows import Moves, moves_in, share_of_pixels
from models.attacks.victim import Victim

_BLOCK = 100  # queries whose random numbers are drawn at once: a draw costs a little for each image


class SquareParams(BoundedParams):
    """The Square Attack on the margin, as in AutoAttack: the schedule of windows is stretched over the queries."""

    name: Literal["square"] = "square"
    queries: int = Field(5_000, ge=1, le=1_000_000, description="windows tried a restart, after the start")
    p_init: float = Field(0.8, gt=0, le=1, description="share of an image's pixels in the first windows")
    restarts: int = Field(1, ge=1, le=1_000, description="runs from different starts; any of them may succeed")

    @property
    def cost(self) -> float:
        return FORWARD_COST * (1 + self.queries) * self.restarts


def run(victim: Victim, images: Tensor, labels: Tensor, params: SquareParams, *, noise: Noise) -> Tensor:
    """The first point found that is wrong, else the one of largest margin in the last restart.

    See :class:`models.attacks.spec.Attack`. Moves are accepted by margins in float32, which bfloat16 would blur.
    """
    victim = victim.in_float32()
    images = images.detach()
    found = images.clone()
    left = torch.arange(len(images), device=images.device)
    for _ in range(params.restarts):
        found[left], standing, noise = _one_run(victim, images[left], labels[left], params=params, noise=noise)
        left = left[standing]
        if not len(left):
            break
    return found


def _one_run(
    victim: Victim, images: Tensor, labels: Tensor, *, params: SquareParams, noise: Noise
) -> tuple[Tensor, Tensor, Noise]:
    """Points of one restart (N, C, H, W), the indices of those that are still right, and their noise."""
    moves = moves_in(params.norm, params.eps)
    points = moves.start(images, noise.uniform(images.new_empty(len(images), *moves.start_chances(images))))
    logits = victim.glance(points)
    lead = margin(logits, labels)
    left = (~victim.fooled(points, labels, logits=logits)).nonzero().squeeze(1)
    chances = _Chances(noise.select(left), moves, images=images[left], queries=params.queries)
    for query in range(params.queries):
        if not len(left):
            break
        share = share_of_pixels(query, queries=params.queries, p_init=params.p_init)
        tried = moves.move(points[left], images[left], share=share, chances=chances.of(query))
        logits = victim.glance(tried)
        ahead = margin(logits, labels[left])
        fooled = victim.fooled(tried, labels[left], logits=logits)
        better = fooled | ~(ahead <= lead[left])
        points[left[better]], lead[left[better]] = tried[better], ahead[better]
        standing = ~fooled
        left = left[standing]
        chances.keep(standing)
    return points, left, chances.noise()


class _Chances:
    """The numbers that decide the moves of the images still in the game, drawn for many queries at once."""

    def __init__(self, noise: Noise, moves: Moves, *, images: Tensor, queries: int) -> None:
        self._noise = noise
        self._like = images.new_empty(1, min(_BLOCK, queries), moves.move_chances(images))
        self._rows = torch.arange(len(images), device=images.device)
        self._drawn = self._like

    def of(self, query: int) -> Tensor:
        """Chances (N left, moves' count) of a query; to be called for every query in turn."""
        moment = query % self._like.shape[1]
        if moment == 0:
            self._noise = self.noise()
            self._drawn = self._noise.uniform(self._like.expand(len(self._rows), -1, -1))
            self._rows = torch.arange(len(self._rows), device=self._rows.device)
        return self._drawn[self._rows, moment]

    def keep(self, standing: Tensor) -> None:
        """Go on with those of the images left that ``standing``, a boolean mask, names."""
        self._rows = self._rows[standing]

    def noise(self) -> Noise:
        """The noise of the images left."""
        return self._noise.select(self._rows)


ATTACKS.add(
    "square",
    Attack(
        name="square",
        title="Square Attack",
        params=SquareParams,
        run=run,
        source="Andriushchenko et al.: Square Attack: a query-efficient black-box adversarial attack via random "
        "search, ECCV 2020, arXiv:1912.00049",
        formula="x' ← x' with one random square set to x ± ε where that raises max_{i≠y} h_i − h_y; "
        "L2: mass moved between two squares",
        access="black-box",
    ),
)
