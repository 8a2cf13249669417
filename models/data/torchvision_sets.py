"""What the data sets read through torchvision share: arrays of any of its layouts → a :class:`Dataset`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from models.data.images import Dataset, ImageSet, content_hash


def image_set(images: Any, labels: Sequence[int] | Any, *, classes: tuple[str, ...]) -> ImageSet:
    """From uint8 arrays (N, H, W), (N, H, W, C) or (N, C, H, W), as torchvision keeps them, and integer labels."""
    pixels = np.asarray(images)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[-1] in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    return ImageSet(
        torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(np.asarray(labels).astype(np.int64)), classes
    )


def dataset(name: str, *, train: ImageSet, test: ImageSet) -> Dataset:
    """Both splits under ``name``, identified by their content."""
    return Dataset(name, train, test, sha256=content_hash(train, test))
