"""SimCLR's random changes for whole batches (Chen et al. 2020, arXiv 2002.05709, App. A), drawn from one generator.

torchvision and kornia have the same operations, but for one image at a time or from the global generator, from which no
step of a training could be repeated.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from models.distributed import drawn

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in an image's brightness (ITU-R BT.601)."""
RATIOS = (3 / 4, 4 / 3)
"""Range of a crop's width over its height, relative to the image's."""
DEVIATION = 0.4
TURN = 0.1
JITTERED = 0.8
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]).double()
_PARTS = [
    [[1.0, 0, 0], [0, 0, 0], [0, 0, 0]],
    [[0.0, 0, 0], [0, 1, 0], [0, 0, 1]],
    [[0.0, 0, 0], [0, 0, -1], [0, 1, 0]],
]
_HUE = _TO_YIQ.inverse() @ torch.tensor(_PARTS).double() @ _TO_YIQ
"""Of RGB: what a turn of the hue leaves, and what it takes times its cosine and its sine."""


def resized_crop(images: Tensor, generator: torch.Generator, *, smallest: float) -> Tensor:
    """A random part of each image (N, C, H, W), of ``smallest`` to all of its area, enlarged to the whole."""
    count, device = len(images), images.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * drawn(torch.rand, count, generator=generator, device=device)

    area, ratio = uniform(smallest, 1), uniform(math.log(RATIOS[0]), math.log(RATIOS[1])).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    # From −1 to 1 over the image: a part of width w has its middle at most 1 − w from the image's.
    across, down = (1 - width) * uniform(-1, 1), (1 - height) * uniform(-1, 1)
    zero = torch.zeros_like(width)
    rows = torch.stack((width, zero, across, zero, height, down), dim=1).view(count, 2, 3)
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    cropped = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return cropped.contiguous(memory_format=torch.channels_last)


def jitter(images: Tensor, generator: torch.Generator, *, strength: float) -> Tensor:
    """Brightness, contrast, saturation and hue of images (N, C, H, W) in [0, 1] changed at random, in this order.

    Factors are drawn within 1 ± 0.4 ``strength``, the hue's turn within ± 0.1 ``strength``; 0.8 ``strength`` of the
    images are changed. Images that are not of three channels have no saturation and no hue.
    """
    count, device = len(images), images.device

    def around(middle: float, deviation: float) -> Tensor:
        uniform = drawn(torch.rand, count, 1, 1, 1, generator=generator, device=device)
        return middle + strength * deviation * (2 * uniform - 1)

    brightness, contrast, saturation = (around(1, DEVIATION) for _ in range(3))
    turn = around(0, TURN)
    chosen = drawn(torch.rand, count, 1, 1, 1, generator=generator, device=device) < JITTERED * strength
    changed = adjusted(images, brightness=brightness, contrast=contrast, saturation=saturation, turn=turn)
    return torch.where(chosen, changed, images)


def adjusted(images: Tensor, *, brightness: Tensor, contrast: Tensor, saturation: Tensor, turn: Tensor) -> Tensor:
    """Images (N, C, H, W) in [0, 1] by factors (N, 1, 1, 1), each result kept in [0, 1].

    ``turn``: of the hue, in turns, around the grey axis of the YIQ space; it leaves the brightness as it is.
    """
    images = (images * brightness).clamp(0, 1)
    level = _gray(images).mean(dim=(1, 2, 3), keepdim=True)
    images = (level + (images - level) * contrast).clamp(0, 1)
    if images.shape[1] != 3:
        return images
    gray = _gray(images)
    images = (gray + (images - gray) * saturation).clamp(0, 1)
    return torch.einsum("nij,njhw->nihw", _turned(turn.flatten()), images).clamp(0, 1)


def some_gray(images: Tensor, generator: torch.Generator, *, share: float) -> Tensor:
    """Images (N, C, H, W) of which a random ``share`` has lost its colour; of three channels, or nothing is done."""
    if images.shape[1] != 3:
        return images
    chosen = drawn(torch.rand, len(images), 1, 1, 1, generator=generator, device=images.device) < share
    return torch.where(chosen, _gray(images).expand_as(images), images)


def _gray(images: Tensor) -> Tensor:
    """Brightness (N, 1, H, W)."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def _turned(turns: Tensor) -> Tensor:
    """Matrices (N, 3, 3) that turn the hue of RGB by ``turns`` (N,)."""
    angle = (2 * math.pi * turns).view(-1, 1, 1)
    kept, along, across = _HUE.to(turns)
    turned: Tensor = kept + angle.cos() * along + angle.sin() * across
    return turned
