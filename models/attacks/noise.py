"""Where an attack's random numbers come from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

from models.distributed import drawn


class Noise(Protocol):
    """Random numbers for the N images of one batch; ``like`` has N as its first dimension."""

    def uniform(self, like: Tensor) -> Tensor:
        """Independent numbers from [-1, 1] of the shape, type and device of ``like``."""

    def normal(self, like: Tensor) -> Tensor:
        """Independent standard normal numbers of the shape, type and device of ``like``."""

    def select(self, chosen: Tensor) -> Noise:
        """The noise of the images that ``chosen``, a boolean mask or indices into the batch, leaves."""

    def branch(self, name: str) -> Noise:
        """Noise of its own for one part of an attack: what other parts drew before does not shift it."""

    def repeat(self, times: int) -> Noise:
        """Noise for each image ``times`` times in a row, as in ``repeat_interleave``; every copy draws its own."""


class BatchNoise:
    """Numbers in the order of one generator: cheap, for training, where an image is never looked at alone.

    ``parts``: how many views of the batch lie one after another in what is drawn for.
    """

    def __init__(self, generator: torch.Generator, *, parts: int = 1) -> None:
        self._generator = generator
        self._parts = parts

    def uniform(self, like: Tensor) -> Tensor:
        return self._draw(torch.rand, like).mul_(2).sub_(1)

    def normal(self, like: Tensor) -> Tensor:
        return self._draw(torch.randn, like)

    def select(self, chosen: Tensor) -> BatchNoise:
        del chosen  # One stream serves whichever images are left.
        return self

    def branch(self, name: str) -> BatchNoise:
        del name
        return self

    def repeat(self, times: int) -> BatchNoise:
        del times
        return self

    def _draw(self, sample: Callable[..., Tensor], like: Tensor) -> Tensor:
        device = self._generator.device
        numbers = drawn(
            sample, *like.shape, parts=self._parts, generator=self._generator, device=device, dtype=like.dtype
        )
        return numbers.to(like.device)


class PerImageNoise:
    """Numbers that depend on an image's own seed and on how often this image drew, on nothing else.

    So an image meets the same start whatever batch it is in, which images were dropped before it, and on any device
    (numbers are drawn on the CPU). For evaluation.
    """

    def __init__(self, seeds: Tensor, *, draws: int = 0) -> None:
        """``seeds``: int64 (N,), one an image. ``draws``: how many draws these images have had already."""
        if seeds.dtype != torch.int64 or seeds.dim() != 1:
            raise ValueError(f"seeds must be int64 (N,), not {seeds.dtype} {tuple(seeds.shape)}")
        self._seeds = seeds.cpu()
        self._draws = draws

    def uniform(self, like: Tensor) -> Tensor:
        return self._draw(torch.rand, like).mul_(2).sub_(1)

    def normal(self, like: Tensor) -> Tensor:
        return self._draw(torch.randn, like)

    def select(self, chosen: Tensor) -> PerImageNoise:
        return PerImageNoise(self._seeds[chosen.cpu()], draws=self._draws)

    def branch(self, name: str) -> PerImageNoise:
        return self._derived([name])

    def repeat(self, times: int) -> PerImageNoise:
        return self._derived(range(times))

    def _derived(self, parts: Iterable[int | str]) -> PerImageNoise:
        parts = list(parts)
        seeds = [derive_seed(seed, part) for seed in self._seeds.tolist() for part in parts]
        return PerImageNoise(torch.tensor(seeds, dtype=torch.int64))

    def _draw(self, sample: Callable[..., Tensor], like: Tensor) -> Tensor:
        if len(like) != len(self._seeds):
            raise ValueError(f"noise for {len(self._seeds)} images was asked for {len(like)}")
        numbers = torch.empty(like.shape, dtype=like.dtype)
        generator = torch.Generator()
        for row, seed in enumerate(self._seeds.tolist()):
            generator.manual_seed(derive_seed(seed, self._draws))
            numbers[row] = sample(like.shape[1:], generator=generator, dtype=like.dtype)
        self._draws += 1
        return numbers.to(like.device)


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2⁶³) that depends on every part and their order, the same on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
