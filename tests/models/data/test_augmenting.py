"""SimCLR's augmentations beside torchvision's, image by image."""

from __future__ import annotations

import colorsys
import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import ColorJitter, RandomResizedCrop
from torchvision.transforms.v2 import functional as theirs

from models.data.augmenting import adjusted, jitter, resized_crop, some_gray
from models.data.loader import Augmentation
from models.specs import SIMCLR, AugmentationSpec

IMAGES = torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(1))
ONES, ZEROS = torch.ones(32, 1, 1, 1), torch.zeros(32, 1, 1, 1)
FACTORS = torch.linspace(0.6, 1.4, 32).view(32, 1, 1, 1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_factors_do_what_torchvisions_do(name: str) -> None:
    change = {"brightness": ONES, "contrast": ONES, "saturation": ONES, "turn": ZEROS, name: FACTORS}
    expected = [getattr(theirs, f"adjust_{name}")(image, float(f)) for image, f in zip(IMAGES, FACTORS, strict=True)]
    torch.testing.assert_close(adjusted(IMAGES, **change), torch.stack(expected), atol=2e-3, rtol=0)


def test_a_turned_hue_keeps_the_brightness_and_turns_the_colour() -> None:
    pale = 0.5 + 0.05 * (IMAGES - 0.5)  # so that nothing is cut off at 0 or 1
    turned = adjusted(pale, brightness=ONES, contrast=ONES, saturation=ONES, turn=ONES * 0.1)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    torch.testing.assert_close((turned * luma).sum(1), (pale * luma).sum(1), atol=1e-4, rtol=0)
    back = adjusted(turned, brightness=ONES, contrast=ONES, saturation=ONES, turn=-ONES * 0.1)
    torch.testing.assert_close(back, pale, atol=1e-4, rtol=0)

    def hue(image: Tensor) -> float:
        return colorsys.rgb_to_hsv(*image[:, 0, 0].tolist())[0]

    turns = torch.tensor([(hue(b) - hue(a) + 0.5) % 1 - 0.5 for a, b in zip(pale, turned, strict=True)])
    assert (turns.abs() > 0.02).all() and (turns.abs() < 0.2).all() and len(set(turns.sign().tolist())) == 1


def test_a_crop_is_one_of_torchvisions_resized() -> None:
    """A picture whose value tells the place says which crop it was; areas and ratios as RandomResizedCrop draws them.

    Where a side would be longer than the picture's, it is the picture's.
    """
    size = 32
    across = (torch.arange(size) + 0.5) / size
    picture = torch.stack((across.expand(size, size), across.view(-1, 1).expand(size, size)))[None].expand(
        200, -1, -1, -1
    )
    cropped = resized_crop(picture, seeded(), smallest=0.1)
    generator = seeded()
    area, ratio, *place = (torch.rand(200, generator=generator) for _ in range(4))
    smallest, largest = RandomResizedCrop(size).ratio
    area, ratio = 0.1 + 0.9 * area, smallest * (largest / smallest) ** ratio
    sides = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    rows = cropped[:, 0, 16], cropped[:, 1, :, 16]
    for values, side, where in zip(rows, sides, place, strict=True):
        # away from the border, where the picture ends
        torch.testing.assert_close((values[:, 23] - values[:, 8]) * size / 15, side, atol=1e-4, rtol=0)
        middle = 0.5 + (1 - side) * (where - 0.5)
        torch.testing.assert_close((values[:, 15] + values[:, 16]) / 2, middle, atol=1e-4, rtol=0)
    whole = resized_crop(IMAGES, seeded(), smallest=1.0)
    assert (whole - IMAGES).abs().mean() < 0.2, "of the whole area, only the ratio changes"


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_images_are_changed_by_torchvisions_ranges(strength: float) -> None:
    """A dark and a light pixel of one pale colour say, in the YIQ space, by which factors they were changed."""
    ranges = ColorJitter(0.4 * strength, 0.4 * strength, 0.4 * strength, 0.1 * strength)
    count = 200
    pixels = [colorsys.yiq_to_rgb(luma, 0.04, 0.02) for luma in (0.35, 0.45)]
    pale = torch.tensor(pixels).T[None, :, None].repeat(count, 1, 1, 1)
    generator = seeded()
    drawn = [torch.rand(count, generator=generator) for _ in range(5)]
    limits = (ranges.brightness, ranges.contrast, ranges.saturation, ranges.hue)
    brightness, contrast, saturation, turn = (
        low + (high - low) * uniform for (low, high), uniform in zip(limits, drawn[:4], strict=True)
    )
    chosen = drawn[4] < 0.8 * strength
    changed = jitter(pale, seeded(), strength=strength)
    assert torch.equal(changed[~chosen], pale[~chosen]) and chosen.any() and not chosen.all()
    found = [[colorsys.rgb_to_yiq(*image[:, 0, pixel].tolist()) for pixel in (0, 1)] for image in changed[chosen]]
    dark, light = torch.tensor(found).unbind(1)
    colour = torch.complex(dark[:, 1], dark[:, 2]) / complex(0.04, 0.02)
    close = {"atol": 5e-3, "rtol": 0}  # the standard library's YIQ is rounded otherwise
    torch.testing.assert_close((dark + light)[:, 0] / 0.8, brightness[chosen], **close)
    torch.testing.assert_close((light - dark)[:, 0] / 0.1, (brightness * contrast)[chosen], **close)
    torch.testing.assert_close(colour.abs(), (brightness * contrast * saturation)[chosen], **close)
    torch.testing.assert_close(colour.angle() / (2 * math.pi), turn[chosen], **close)


def test_shares_of_the_images_are_changed() -> None:
    many = IMAGES.repeat(20, 1, 1, 1)
    changed = (jitter(many, seeded(), strength=1.0) != many).flatten(1).any(1).float().mean()
    assert 0.74 < changed < 0.86
    gray = some_gray(many, seeded(), share=0.2)
    colourless = (gray[:, 0] == gray[:, 1]).flatten(1).all(1)
    assert 0.15 < colourless.float().mean() < 0.25
    expected = theirs.rgb_to_grayscale(many[colourless], num_output_channels=3)
    torch.testing.assert_close(gray[colourless], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_all_of_it_repeats_itself_and_stays_an_image(channels: int) -> None:
    images = torch.rand(8, channels, 12, 20, generator=seeded(3))
    augment = Augmentation(SIMCLR)
    one, again, other = (augment(images, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.shape == images.shape and one.min() >= 0 and one.max() <= 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(augment(images, seeded(1)), one)


def test_nothing_asked_for_is_nothing_done() -> None:
    assert Augmentation(AugmentationSpec(crop_padding=0, flip=False)).changes_nothing
    for change in ({"flip": True}, {"crop_padding": 1}, {"crop_area": 0.9}, {"jitter": 0.1}, {"gray": 0.1}):
        assert not Augmentation(
            AugmentationSpec.model_validate({"crop_padding": 0, "flip": False} | change)
        ).changes_nothing
