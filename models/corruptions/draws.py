"""Where a corruption's random numbers come from."""

from __future__ import annotations

import torch
from torch import Tensor


class Draws:
    """Random numbers for N images; those of one image depend on its own seed and on what it drew before.

    So an image is corrupted alike in every batch. Numbers are drawn on the CPU.
    """

    def __init__(self, seeds: Tensor) -> None:
        """``seeds``: int64 (N,), one an image."""
        if seeds.dtype != torch.int64 or seeds.dim() != 1:
            raise ValueError(f"seeds must be int64 (N,), not {seeds.dtype} {tuple(seeds.shape)}")
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]

    def __len__(self) -> int:
        return len(self._generators)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Independent numbers from [low, high), float32 (N, *shape)."""
        numbers = torch.empty(len(self._generators), *shape)
        for row, generator in zip(numbers, self._generators, strict=True):
            row.uniform_(low, high, generator=generator)
        return numbers

    def normal(self, *shape: int) -> Tensor:
        """Independent standard normal numbers, float32 (N, *shape)."""
        numbers = torch.empty(len(self._generators), *shape)
        for row, generator in zip(numbers, self._generators, strict=True):
            row.normal_(generator=generator)
        return numbers

    def poisson(self, rates: Tensor) -> Tensor:
        """Independent counts with the means ``rates`` (N, ...), of the same shape and type."""
        rows = zip(rates, self._generators, strict=True)
        return torch.stack([torch.poisson(row, generator=generator) for row, generator in rows])
