"""What makes two implementations of an attack comparable: the same random numbers, and every point they look at."""

from __future__ import annotations

import copy

from torch import Tensor, nn


class Replay:
    """The random numbers of another library: the same for every draw."""

    def __init__(self, numbers: Tensor) -> None:
        self._numbers = numbers

    def uniform(self, like: Tensor) -> Tensor:
        assert like.shape == self._numbers.shape
        return self._numbers

    def normal(self, like: Tensor) -> Tensor:
        return self.uniform(like)

    def select(self, chosen: Tensor) -> Replay:
        return Replay(self._numbers[chosen])

    def repeat(self, times: int) -> Replay:
        return Replay(self._numbers.repeat_interleave(times, dim=0))


def watched(model: nn.Module) -> tuple[nn.Module, list[Tensor]]:
    """A copy of ``model``, and a list that it and its own copies fill with the points at which a gradient is asked."""
    seen: list[Tensor] = []

    def note(module: nn.Module, points: tuple[Tensor]) -> None:
        if points[0].requires_grad:
            seen.append(points[0].detach().clone())

    twin = copy.deepcopy(model)
    twin.register_forward_pre_hook(note)
    return twin, seen
