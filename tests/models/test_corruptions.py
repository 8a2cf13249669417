"""Every corruption against a plain loop, scipy, colorsys or Pillow; and what holds for all of them.

References follow the script that made CIFAR-10-C (hendrycks/robustness, make_cifar_c.py), one image at a time. Random
numbers are drawn once more from the same seeds, in the order in which the original draws them.
"""

from __future__ import annotations

import colorsys
import math
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from models.corruptions.blur import disk
from models.corruptions.corrupt import corrupt
from models.corruptions.draws import Draws
from models.corruptions.operators import plasma
from models.corruptions.spec import CORRUPTIONS, SEVERITIES, Corruption, strengths

NAMES = [
    "brightness",
    "contrast",
    "defocus_blur",
    "elastic_transform",
    "fog",
    "frost",
    "gaussian_noise",
    "glass_blur",
    "impulse_noise",
    "jpeg_compression",
    "motion_blur",
    "pixelate",
    "shot_noise",
    "snow",
    "zoom_blur",
]
HALF_STEP = 0.501 / 255  # results are rounded to 8 bits
# Their published strengths are not ordered by distance: an affine map that shrinks, a darker mix, fewer passes.
NOT_BY_DISTANCE = ("elastic_transform", "frost", "glass_blur")


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


def test_the_fifteen_are_registered_with_the_published_strengths() -> None:
    assert list(CORRUPTIONS) == NAMES
    entries = CORRUPTIONS.entries()
    assert {entry.group for entry in entries} == {"noise", "blur", "weather", "digital"}
    assert [entry.name for entry in entries if entry.note] == ["frost"]
    assert CORRUPTIONS["jpeg_compression"].strengths[4] == {"quality": 40}
    assert CORRUPTIONS["glass_blur"].strengths[3] == {"sigma": 0.25, "max_delta": 1, "iterations": 2}
    assert [list(entry.strengths[0].values()) for entry in entries if entry.name == "snow"] == [
        [0.1, 0.2, 1, 0.6, 8, 3, 0.95]
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (1, 28, 28), (3, 64, 64), (4, 24, 40)])
def test_any_size_and_any_number_of_channels_is_taken(name: str, shape: tuple[int, int, int]) -> None:
    images = pictures(2, *shape)
    before = images.clone()
    for severity in SEVERITIES:
        corrupted = apply(name, images, severity)
        assert corrupted.shape == images.shape and corrupted.dtype == torch.float32
        assert bool(((corrupted >= 0) & (corrupted <= 1)).all())
        assert torch.equal(corrupted, (corrupted * 255).round() / 255)
    assert not torch.equal(corrupted, images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", NAMES)
def test_a_higher_severity_moves_images_further(name: str) -> None:
    images = pictures(40, 3, 32, 32)
    distances = [(apply(name, images, severity) - images).flatten(1).norm(dim=1).mean() for severity in SEVERITIES]
    assert min(distances) > 0.1
    if name not in NOT_BY_DISTANCE:
        assert all(weak <= strong * 1.01 for weak, strong in pairwise(distances))
        assert distances[-1] > 1.2 * distances[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28)])
def test_an_image_is_corrupted_alike_in_every_batch(name: str, shape: tuple[int, int, int]) -> None:
    images = pictures(9, *shape)
    for severity in (1, 5):
        whole = apply(name, images, severity)
        for size in (1, 4):
            chunks = zip(images.split(size), seeds(9).split(size), strict=True)
            parts = [corrupt(chunk, CORRUPTIONS[name], severity=severity, seeds=index) for chunk, index in chunks]
            assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("name", NAMES)
def test_randomness_comes_from_the_seed_alone(name: str) -> None:
    images = pictures(1, 3, 32, 32).expand(2, -1, -1, -1).contiguous()
    first = apply(name, images, 5)
    torch.manual_seed(1)
    assert torch.equal(apply(name, images, 5), first)
    fixed = ("brightness", "contrast", "defocus_blur", "jpeg_compression", "pixelate", "zoom_blur")
    assert torch.equal(first[0], first[1]) == (name in fixed)


def test_what_cannot_be_corrupted_is_refused_in_words() -> None:
    fog, images = CORRUPTIONS["fog"], pictures(2, 3, 32, 32)
    with pytest.raises(ValueError, match="severity 6 is not one of 1, 2, 3, 4, 5"):
        corrupt(images, fog, severity=6, seeds=seeds(2))
    with pytest.raises(ValueError, match="at least 8"):
        corrupt(images[..., :7], fog, severity=1, seeds=seeds(2))
    with pytest.raises(ValueError, match="3 seeds for 2 images"):
        corrupt(images, fog, severity=1, seeds=seeds(3))
    with pytest.raises(ValueError, match="float32"):
        corrupt(images.double(), fog, severity=1, seeds=seeds(2))
    with pytest.raises(ValueError, match="int64"):
        Draws(torch.zeros(2))
    with pytest.raises(ValueError, match="give 5 strengths, not 2"):
        Corruption("x", "X", "noise", fog.run, strengths(std=(0.1, 0.2)), formula="")


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_published_spread(severity: int) -> None:
    grey = torch.full((20, 3, 32, 32), 102 / 255)
    std = [0.04, 0.06, 0.08, 0.09, 0.10][severity - 1]
    assert (apply("gaussian_noise", grey, severity) - grey).std().item() == pytest.approx(std, rel=0.02)
    photons = [500, 250, 100, 75, 50][severity - 1]
    shot = apply("shot_noise", grey, severity)
    assert shot.mean().item() == pytest.approx(0.4, abs=0.002)
    assert shot.var().item() == pytest.approx(0.4 / photons, rel=0.03)
    amount = [0.01, 0.02, 0.03, 0.05, 0.07][severity - 1]
    impulse = apply("impulse_noise", grey, severity)
    assert (impulse == 0).float().mean().item() == pytest.approx(amount / 2, rel=0.15)
    assert (impulse == 1).float().mean().item() == pytest.approx(amount / 2, rel=0.15)
    assert bool(((impulse == 0) | (impulse == 1) | (impulse == grey)).all())


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


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_and_contrast_follow_their_formulas(severity: int) -> None:
    image = pictures(1, 3, 16, 16)
    image[:, :, 0, :3] = torch.tensor([[0.0, 1, 0], [0, 1, 0], [0, 1, 1]])
    x = hwc(image[0])
    shift = [0.05, 0.1, 0.15, 0.2, 0.3][severity - 1]
    brighter = np.zeros_like(x)
    for h in range(16):
        for w in range(16):
            hue, saturation, value = colorsys.rgb_to_hsv(*x[h, w])
            brighter[h, w] = colorsys.hsv_to_rgb(hue, saturation, min(value + shift, 1))
    assert_same(apply("brightness", image, severity)[0], brighter)
    factor = [0.75, 0.5, 0.4, 0.3, 0.15][severity - 1]
    means = x.mean((0, 1))
    assert_same(apply("contrast", image, severity)[0], (x - means) * factor + means)
    grey = pictures(1, 1, 16, 16)
    assert_same(apply("brightness", grey, severity)[0], hwc(grey[0]) + shift)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 40, 56)])
def test_pixelation_and_jpeg_are_pillows(severity: int, shape: tuple[int, int, int]) -> None:
    image = pictures(1, *shape)
    array = (hwc(image[0]) * 255).round().astype(np.uint8)
    picture = Image.fromarray(array.squeeze())
    factor = [0.95, 0.9, 0.85, 0.75, 0.65][severity - 1]
    small = picture.resize((int(shape[2] * factor), int(shape[1] * factor)), Image.Resampling.BOX)
    blocks = np.asarray(small.resize(picture.size, Image.Resampling.BOX)).reshape(array.shape)
    assert np.array_equal((hwc(apply("pixelate", image, severity)[0]) * 255).round(), blocks)
    file = BytesIO()
    picture.save(file, "JPEG", quality=[80, 65, 58, 50, 40][severity - 1])
    read = np.asarray(Image.open(file)).reshape(array.shape)
    assert np.array_equal((hwc(apply("jpeg_compression", image, severity)[0]) * 255).round(), read)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("side", [32, 48])
def test_elastic_transform_is_scipys_resampling(severity: int, side: int) -> None:
    alpha, sigma, affine = [(0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)][
        severity - 1
    ]
    image = pictures(1, 3, side, side)
    draws = Draws(seeds(1))
    middle, reach = side // 2, side // 3
    before = np.array([[middle + reach, middle + reach], [middle + reach, middle - reach], [middle - reach] * 2], float)
    after = before + draws.uniform(3, 2, low=-affine * side, high=affine * side)[0].double().numpy()
    forth = np.linalg.solve(np.c_[before, np.ones(3)], after).T  # (x, y, 1) → (x, y)
    back = np.linalg.inv(np.vstack([forth, [0, 0, 1]]))
    rows, columns = np.mgrid[:side, :side].astype(float)
    x, y, _ = np.einsum("ij,jhw->ihw", back, np.stack([columns, rows, np.ones_like(rows)]))
    moved = [ndimage.map_coordinates(channel, [y, x], order=1, mode="mirror") for channel in image[0].double().numpy()]
    bends = np.zeros((2, side, side))
    if alpha:
        lots = draws.uniform(2, side, side, low=-1, high=1)[0].double().numpy()
        bends = alpha * side * ndimage.gaussian_filter(lots, (0, sigma * side, sigma * side), truncate=3)
    places = [rows + bends[1], columns + bends[0]]
    bent = [ndimage.map_coordinates(channel, places, order=1, mode="reflect") for channel in moved]
    assert_same(apply("elastic_transform", image, severity)[0], np.stack(bent, -1))
