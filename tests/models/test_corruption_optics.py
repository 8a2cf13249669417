"""Blur and weather against plain loops and scipy.

References follow the script that made CIFAR-10-C (hendrycks/robustness, make_cifar_c.py), one image at a time. Random
numbers are drawn once more from the same seeds, in the order in which the original draws them.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from models.corruptions.blur import disk
from models.corruptions.draws import Draws
from models.corruptions.operators import plasma
from models.corruptions.spec import SEVERITIES
from tests.models.corrupted import HALF_STEP, apply, assert_same, hwc, pictures, seeds


@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_is_a_convolution_with_the_published_disk(severity: int) -> None:
    radius, antialias = [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)][severity - 1]
    line = np.arange(-8, 9)
    kernel = (line[:, None] ** 2 + line**2 <= radius**2).astype(float)
    taps = np.exp(-(np.array([-1, 0, 1]) ** 2) / (2 * antialias**2))
    taps /= taps.sum()
    kernel = ndimage.correlate(kernel / kernel.sum(), taps[:, None] * taps)
    image = pictures(1, 3, 32, 32)
    assert_same(
        apply("defocus_blur", image, severity)[0],
        np.stack([ndimage.correlate(hwc(image[0])[..., channel], kernel, mode="mirror") for channel in range(3)], -1),
    )


@pytest.mark.parametrize("radius", [0.3, 1.5, 3.0, 7.9, 10.5])
def test_a_defocus_kernel_keeps_the_brightness(radius: float) -> None:
    kernel = disk(radius=radius, antialias=0.5)
    assert kernel.sum().item() == pytest.approx(1)
    assert torch.allclose(kernel, kernel.T) and torch.allclose(kernel, kernel.flip(0))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_glass_is_what_the_original_loop_does(severity: int) -> None:
    sigma, iterations = [(0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2)][severity - 1]
    image = pictures(1, 3, 32, 32)
    draws = Draws(seeds(1))
    x = ndimage.gaussian_filter(hwc(image[0]), (sigma, sigma, 0), mode="nearest")
    for _ in range(iterations):
        offsets = draws.uniform(2, 32, 32, low=-1, high=1)[0].floor().long().numpy()
        for h in range(31, 1, -1):
            for w in range(31, 1, -1):
                dy, dx = offsets[:, h, w]
                # The original's own statement, with what numpy makes of it.
                x[h, w], x[h + dy, w + dx] = x[h + dy, w + dx], x[h, w]
    assert_same(apply("glass_blur", image, severity)[0], ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="nearest"))


def streak(x: np.ndarray, angle: float, *, radius: float, sigma: float) -> np.ndarray:
    """ImageMagick's motion blur of (H, W, C), tap by tap."""
    width = 2 * math.ceil(radius) + 1
    weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(width)]
    blurred = np.zeros_like(x)
    for i, weight in enumerate(weights):
        dx = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        dy = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        rows = np.clip(np.arange(x.shape[0]) + dy, 0, x.shape[0] - 1)
        columns = np.clip(np.arange(x.shape[1]) + dx, 0, x.shape[1] - 1)
        blurred += weight * x[rows][:, columns]
    return blurred / sum(weights)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_blur_is_imagemagicks(severity: int) -> None:
    radius, sigma = [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)][severity - 1]
    image = pictures(1, 3, 32, 32)
    angle = Draws(seeds(1)).uniform(low=-45, high=45).item()
    assert_same(apply("motion_blur", image, severity)[0], streak(hwc(image[0]), angle, radius=radius, sigma=sigma))


def clipped_zoom(x: np.ndarray, factor: float) -> np.ndarray:
    kept = math.ceil(len(x) / factor)
    top = (len(x) - kept) // 2
    zoomed = ndimage.zoom(x[top : top + kept, top : top + kept], (factor, factor, 1), order=1)
    trim = (len(zoomed) - len(x)) // 2
    return zoomed[trim : trim + len(x), trim : trim + len(x)]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_zoom_blur_is_a_mean_of_scipys_zooms(severity: int) -> None:
    image = pictures(1, 3, 32, 32)
    x = hwc(image[0])
    factors = np.arange(1, [1.06, 1.11, 1.16, 1.21, 1.26][severity - 1], 0.01)
    total = sum((clipped_zoom(x, factor) for factor in factors), x)
    assert_same(apply("zoom_blur", image, severity)[0], total / (len(factors) + 1))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_snow_is_made_as_the_original_makes_it(severity: int) -> None:
    mean, std, zoom, threshold, radius, sigma, keep = [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ][severity - 1]
    image = pictures(1, 3, 32, 32)
    x, draws = hwc(image[0]), Draws(seeds(1))
    layer = clipped_zoom(mean + std * hwc(draws.normal(1, 32, 32)[0]), zoom)
    layer[layer < threshold] = 0
    layer = streak(np.clip(layer, 0, 1), draws.uniform(low=-135, high=-45).item(), radius=radius, sigma=sigma)
    grey = (x @ [0.299, 0.587, 0.114])[..., None]
    x = keep * x + (1 - keep) * np.maximum(x, grey * 1.5 + 0.5)
    assert_same(apply("snow", image, severity)[0], x + layer + np.rot90(layer, 2))


def original_plasma(side: int, decay: float, draws: Draws) -> np.ndarray:
    """The diamond-square algorithm, point by point."""
    field, step, wibble = np.zeros((side, side)), side, 100.0

    def mean(points: list[tuple[int, int]]) -> float:
        return sum(field[h % side, w % side] for h, w in points) / 4

    while step >= 2:
        half, places = step // 2, range(0, side, step)
        for rows, columns, around in (
            (half, half, [(-half, -half), (-half, half), (half, -half), (half, half)]),
            (0, half, [(-half, 0), (half, 0), (0, -half), (0, half)]),
            (half, 0, [(-half, 0), (half, 0), (0, -half), (0, half)]),
        ):
            offsets = draws.uniform(len(places), len(places), low=-wibble * wibble, high=wibble * wibble)[0]
            for i, h in enumerate(range(rows, side, step)):
                for j, w in enumerate(range(columns, side, step)):
                    field[h, w] = mean([(h + dy, w + dx) for dy, dx in around]) + offsets[i, j].item()
        step, wibble = half, wibble / decay
    return (field - field.min()) / (field.max() - field.min())


@pytest.mark.parametrize("severity", SEVERITIES)
def test_fog_is_a_plasma_that_dims_the_image(severity: int) -> None:
    thickness, decay = [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)][severity - 1]
    image = pictures(1, 3, 32, 32)
    x = hwc(image[0])
    field = original_plasma(32, decay, Draws(seeds(1)))[..., None]
    brightest = x.max()
    assert_same(apply("fog", image, severity)[0], (x + thickness * field) * brightest / (brightest + thickness))


def test_plasma_of_large_images_covers_them() -> None:
    field = plasma(Draws(seeds(2)), height=64, width=40, decay=2.0)
    assert field.shape == (2, 1, 64, 40)
    assert np.allclose(field[0, 0].numpy(), original_plasma(64, 2.0, Draws(seeds(1)))[:, :40], atol=1e-4)


def test_frost_lays_ice_on_a_black_image_and_keeps_its_share_of_a_white_one() -> None:
    black, white = torch.zeros(30, 3, 32, 32), torch.ones(30, 3, 32, 32)
    visibility, ice = (1, 1, 0.9, 0.85, 0.75), (0.2, 0.3, 0.4, 0.4, 0.45)
    for severity in SEVERITIES:
        texture = apply("frost", black, severity)
        assert texture.max().item() <= ice[severity - 1] + HALF_STEP
        assert 0.2 * ice[severity - 1] < texture.mean().item() < 0.7 * ice[severity - 1]
        assert texture.std((1, 2, 3)).min().item() > 0.05 * ice[severity - 1]
        frozen = (texture + visibility[severity - 1]).clamp(max=1)
        assert (apply("frost", white, severity) - frozen).abs().max().item() <= 1.01 / 255
