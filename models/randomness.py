"""Random choices that depend on (seed, purpose, step) alone, so that a resumed run makes the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.attacks.noise import derive_seed


def generator_for(seed: int, *purpose: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on ``device`` for one purpose, such as ``("batch", step)``."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *purpose))


@contextmanager
def torch_seeded(seed: int, *, device: torch.device | None = None) -> Iterator[None]:
    """Torch's global generators, of the CPU and of ``device``, at ``seed`` inside, and as they were afterwards.

    Layers that draw by themselves, such as dropout and stochastic depth, and constructors know no other generator.
    """
    generators = [torch.default_generator]
    if device is not None and device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
