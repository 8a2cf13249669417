"""The corruptions by noise of CIFAR-10-C: Gaussian, shot (Poisson) and impulse (salt and pepper)."""

from __future__ import annotations

import torch
from torch import Tensor

from models.corruptions.draws import Draws
from models.corruptions.spec import CORRUPTIONS, Corruption, strengths


def gaussian_noise(images: Tensor, draws: Draws, *, std: float) -> Tensor:
    """See :class:`models.corruptions.spec.Corruption`."""
    return images + std * draws.normal(*images.shape[1:])


def shot_noise(images: Tensor, draws: Draws, *, photons: float) -> Tensor:
    """See :class:`models.corruptions.spec.Corruption`."""
    return draws.poisson(images * photons) / photons


def impulse_noise(images: Tensor, draws: Draws, *, amount: float) -> Tensor:
    """See :class:`models.corruptions.spec.Corruption`."""
    lot = draws.uniform(*images.shape[1:])
    peppered = torch.where(lot < amount / 2, 0.0, images)
    return torch.where((lot >= amount / 2) & (lot < amount), 1.0, peppered)


CORRUPTIONS.add(
    "gaussian_noise",
    Corruption(
        name="gaussian_noise",
        title="Gaussian noise",
        group="noise",
        run=gaussian_noise,
        strengths=strengths(std=(0.04, 0.06, 0.08, 0.09, 0.10)),
        formula="x + N(0, std²), each channel on its own",
    ),
)
CORRUPTIONS.add(
    "shot_noise",
    Corruption(
        name="shot_noise",
        title="Shot noise",
        group="noise",
        run=shot_noise,
        strengths=strengths(photons=(500, 250, 100, 75, 50)),
        formula="Poisson(photons·x) / photons, each channel on its own",
    ),
)
CORRUPTIONS.add(
    "impulse_noise",
    Corruption(
        name="impulse_noise",
        title="Impulse noise",
        group="noise",
        run=impulse_noise,
        strengths=strengths(amount=(0.01, 0.02, 0.03, 0.05, 0.07)),
        formula="a share `amount` of the values, each channel on its own, becomes 0 or 1 with equal chances",
    ),
)
