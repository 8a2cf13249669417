"""Adversarial examples as PNGs that a person can look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

MAGNIFICATION = 10


def write_example(folder: Path, position: int, *, clean: Tensor, adversarial: Tensor) -> None:
    """Write ``<position>-clean.png``, ``-adversarial.png`` and ``-difference.png``; both images (C, H, W) in [0, 1].

    The difference is shown around mid-grey, magnified ``MAGNIFICATION`` times in every picture, so that two of them can
    be compared; what is larger than 0.05 is black or white. The PNGs are for looking at: 8 bits round small
    perturbations away.
    """
    shown = {
        "clean": clean.float(),
        "adversarial": adversarial.float(),
        "difference": 0.5 + MAGNIFICATION * (adversarial.float() - clean.float()),
    }
    for part, image in shown.items():
        _write(folder / f"{position}-{part}.png", image)


def _write(path: Path, image: Tensor) -> None:
    pixels: NDArray[np.uint8] = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    if pixels.shape[2] not in (1, 3):
        pixels = pixels[:, :, :1]  # a picture of the first channel, where there is no colour to show
    # In their own size, so that a picture sent to /classify is what the model saw, up to the rounding to 8 bits.
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path, format="PNG", optimize=True)
