"""Random choices that depend on (seed, purpose, step) alone, so that a resumed run makes the same ones."""

from __future__ import annotations

import torch

from models.attacks.noise import derive_seed


def generator_for(seed: int, *purpose: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on ``device`` for one purpose, such as ``("batch", step)``."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *purpose))
