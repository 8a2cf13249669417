"""What holds for every corruption; noise and digital ones against formulas, scipy, colorsys and Pillow."""

from __future__ import annotations

import colorsys
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from models.corruptions.corrupt import corrupt
from models.corruptions.draws import Draws
from models.corruptions.spec import CORRUPTIONS, SEVERITIES, Corruption, strengths
from tests.models.corrupted import apply, assert_same, hwc, pictures, seeds

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
# Their published strengths are not ordered by distance: an affine map that shrinks, a darker mix, fewer passes.
NOT_BY_DISTANCE = ("elastic_transform", "frost", "glass_blur")


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
