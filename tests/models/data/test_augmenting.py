"""SimCLR's augmentations beside torchvision's, image by image."""

from __future__ import annotations

import colorsys

import pytest
import torch
from torch import Tensor
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
    """The corners of a picture whose value tells the place say which crop it was."""
    size = 32
    across = (torch.arange(size) + 0.5) / size
    picture = torch.stack((across.expand(size, size), across.view(-1, 1).expand(size, size)))[None].expand(
        200, -1, -1, -1
    )
    cropped = resized_crop(picture, seeded(), smallest=0.1)
    middle = slice(8, 24)  # away from the border, where the picture ends
    slope = (
        (cropped[:, 0, 16, 23] - cropped[:, 0, 16, 8]) / (15 / size),
        (cropped[:, 1, 23, 16] - cropped[:, 1, 8, 16]) / (15 / size),
    )
    area, ratio = slope[0] * slope[1], slope[0] / slope[1]
    assert area.min() > 0.05 and area.max() < 1.001 and area.std() > 0.15
    assert 0.5 < ratio.min() < 0.9 and 1.1 < ratio.max() < 2
    assert cropped[:, :, middle, middle].min() >= 0 and cropped.max() <= 1
    whole = resized_crop(IMAGES, seeded(), smallest=1.0)
    assert (whole - IMAGES).abs().mean() < 0.2, "of the whole area, only the ratio changes"


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
