"""Images to corrupt, and the comparison with a reference that works on one image (H, W, C) at a time."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from models.corruptions.corrupt import corrupt
from models.corruptions.spec import CORRUPTIONS

HALF_STEP = 0.501 / 255  # results are rounded to 8 bits


def pictures(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Smooth 8-bit images with all values between black and white, (count, *shape)."""
    noise = np.random.default_rng(seed).normal(size=(count, *shape))
    smooth = ndimage.gaussian_filter(noise, (0, 0, 2, 2))
    scaled = 0.5 + 0.22 * smooth / smooth.std()
    return torch.from_numpy(np.clip(scaled * 255, 0, 255).round()).float() / 255


def apply(name: str, images: torch.Tensor, severity: int, *, seed: int = 0) -> torch.Tensor:
    return corrupt(images, CORRUPTIONS[name], severity=severity, seeds=seeds(len(images), seed))


def seeds(count: int, first: int = 0) -> torch.Tensor:
    return torch.arange(first, first + count)


def hwc(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).double().numpy()


def assert_same(corrupted: torch.Tensor, reference: np.ndarray) -> None:
    """Equal to an (H, W, C) reference up to the rounding to 8 bits."""
    assert np.abs(hwc(corrupted) - np.clip(reference, 0, 1)).max() <= HALF_STEP
