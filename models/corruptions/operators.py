"""Blurs, zooms, shifts and random fields that several corruptions are made of.

Separable filters are matrices that act on rows and on columns, made by scipy from the unit matrix: so they are scipy's
own filters with its treatment of the borders, and a whole batch takes two products.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from models.corruptions.draws import Draws

NATIVE_SIDE = 32
"""The strengths are those of 32-pixel images."""


def length_scale(images: Tensor) -> float:
    """Factor of every length in pixels: the shorter side over 32, never below 1.

    Larger images are blurred as much for their size. In smaller ones a length keeps its pixels, since a blur by a
    fraction of a pixel would be none.
    """
    return max(1.0, min(images.shape[2:]) / NATIVE_SIDE)


def gaussian_matrix(size: int, *, sigma: float, mode: str, truncate: float) -> Tensor:
    """Matrix (size, size) of scipy's Gaussian filter on a line of ``size`` pixels; the unit matrix at ``sigma`` 0."""
    unit = np.eye(size)
    if sigma == 0:
        return _matrix(unit)
    return _matrix(ndimage.gaussian_filter1d(unit, sigma, axis=0, mode=mode, truncate=truncate))


def zoom_matrix(size: int, factor: float) -> Tensor:
    """Matrix (size, size) that magnifies the middle of a line by ``factor`` ≥ 1, by linear interpolation."""
    kept = math.ceil(size / factor)
    start = (size - kept) // 2
    zoomed = ndimage.zoom(np.eye(size)[start : start + kept], (factor, 1), order=1)
    trim = (len(zoomed) - size) // 2
    return _matrix(zoomed[trim : trim + size])


def _matrix(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).float()


def gaussian_blur(images: Tensor, *, sigma: float) -> Tensor:
    """Gaussian blur of (N, C, H, W) cut at 4 ``sigma``; the border pixels go on outside."""
    height, width = images.shape[2:]
    down = gaussian_matrix(height, sigma=sigma, mode="nearest", truncate=4.0)
    across = gaussian_matrix(width, sigma=sigma, mode="nearest", truncate=4.0)
    return down @ images @ across.T


def clipped_zoom(images: Tensor, factor: float) -> Tensor:
    """The middle of (N, C, H, W) magnified by ``factor`` ≥ 1, of the same shape."""
    height, width = images.shape[2:]
    return zoom_matrix(height, factor) @ images @ zoom_matrix(width, factor).T


def shifted(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Each pixel of (N, C, H, W) replaced by one some pixels away; the border pixels go on outside.

    ``down``, ``across``: integers that broadcast to (N, H, W).
    """
    count, channels, height, width = images.shape
    rows = (torch.arange(height)[:, None] + down).clamp(0, height - 1)
    columns = (torch.arange(width) + across).clamp(0, width - 1)
    source = (rows * width + columns).expand(count, height, width).reshape(count, 1, -1)
    moved = images.flatten(2).gather(2, source.expand(-1, channels, -1))
    return moved.reshape(images.shape)


def motion_blur(images: Tensor, angles: Tensor, *, radius: float, sigma: float) -> Tensor:
    """One-sided Gaussian streak along ``angles`` (N,), in degrees, on (N, C, H, W).

    ImageMagick's MotionBlurImage, which the published files were made with: taps at i = 0 … 2·⌈radius⌉, weight
    exp(−i²/2σ²), each at the pixel nearest to i·(cos, sin).
    """
    taps = torch.arange(2 * math.ceil(radius) + 1, dtype=torch.float64)
    weights = torch.exp(-taps.square() / (2 * sigma**2))
    weights /= weights.sum()
    radians = torch.deg2rad(angles.double())[:, None, None]
    blurred = torch.zeros_like(images)
    for tap, weight in zip(taps.tolist(), weights.tolist(), strict=True):
        if weight < 1e-5:  # far below one step of 8 bits
            break
        down = torch.ceil(tap * radians.sin() - 0.5).long()
        across = torch.ceil(tap * radians.cos() - 0.5).long()
        blurred.add_(shifted(images, down, across), alpha=weight)
    return blurred


def plasma(draws: Draws, *, height: int, width: int, decay: float) -> Tensor:
    """Cloudy random fields by the diamond-square algorithm, (N, 1, height, width), each from 0 to 1 before it is cut.

    ``decay``: by how much the roughness falls from each scale to the next, finer one. The map is a periodic square of
    a power of two, at least 32, as the published fog's.
    """
    side = max(NATIVE_SIDE, 2 ** math.ceil(math.log2(max(height, width))))
    fields = torch.zeros(len(draws), side, side)
    step, roughness = side, 100.0
    while step >= 2:
        _refine(fields, draws, step=step, spread=roughness**2)
        step, roughness = step // 2, roughness / decay
    low, high = fields.amin((1, 2), keepdim=True), fields.amax((1, 2), keepdim=True)
    return ((fields - low) / (high - low))[:, None, :height, :width]


def _refine(fields: Tensor, draws: Draws, *, step: int, spread: float) -> None:
    """Fill the points halfway between those known at ``step``: the mean of the four around, and a random offset."""
    half = step // 2
    corners, middles = fields[:, ::step, ::step], fields[:, half::step, half::step]

    def near(four: Tensor) -> Tensor:
        return four / 4 + draws.uniform(*four.shape[1:], low=-spread, high=spread)

    rows = corners + corners.roll(-1, 2)
    columns = corners + corners.roll(-1, 1)
    middles.copy_(near(rows + rows.roll(-1, 1)))
    fields[:, ::step, half::step] = near(rows + middles + middles.roll(1, 1))
    fields[:, half::step, ::step] = near(columns + middles + middles.roll(1, 2))
