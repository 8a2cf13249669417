"""Applies a registered corruption to a batch of images."""

from __future__ import annotations

import torch
from torch import Tensor

from models.corruptions.draws import Draws
from models.corruptions.spec import SEVERITIES, SMALLEST_SIDE, Corruption


def corrupt(images: Tensor, corruption: Corruption, *, severity: int, seeds: Tensor) -> Tensor:
    """``images`` corrupted at ``severity`` (1 to 5), of the same shape, rounded to 8 bits as files of images are.

    ``images``: float32 (N, C, H, W) in [0, 1] on the CPU, H and W at least 8. ``seeds``: int64 (N,); each result
    depends on its image and its seed alone. Raises ValueError.
    """
    if images.dtype != torch.float32 or images.dim() != 4 or images.device.type != "cpu":
        raise ValueError(f"images must be float32 (N, C, H, W) on the CPU, not {images.dtype} {tuple(images.shape)}")
    if min(images.shape[2:]) < SMALLEST_SIDE:
        raise ValueError(f"images of {tuple(images.shape[2:])} pixels; at least {SMALLEST_SIDE} a side are needed")
    if severity not in SEVERITIES:
        raise ValueError(f"severity {severity} is not one of {', '.join(map(str, SEVERITIES))}")
    if len(seeds) != len(images):
        raise ValueError(f"{len(seeds)} seeds for {len(images)} images")
    corrupted = corruption.run(images, Draws(seeds), **corruption.strengths[severity - 1])
    return corrupted.clamp(0, 1).mul(255).round_().div_(255)
