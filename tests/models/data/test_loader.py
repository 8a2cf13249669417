import itertools

import pytest
import torch

from models.data import DataError, ImageSet
from models.data.loader import Augmentation, Loader
from models.specs import AugmentationSpec

CPU = torch.device("cpu")


def numbered(count: int) -> ImageSet:
    """Image i has the value i everywhere and the label i."""
    values = torch.arange(count)
    images = values.to(torch.uint8)[:, None, None, None].expand(count, 1, 2, 2).contiguous()
    return ImageSet(images, values, tuple(map(str, range(count))))


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    loader = Loader(numbered(12), 4, seed=1, device=CPU)
    epochs = [[loader.batch(step)[1].tolist() for step in range(first, first + 3)] for first in (0, 3)]
    assert all(sorted(itertools.chain.from_iterable(epoch)) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_pixels_belong_to_their_labels() -> None:
    images, labels = Loader(numbered(12), 5, seed=1, device=CPU).batch(1)
    assert images.dtype == torch.float32
    assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), labels)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    loader = Loader(numbered(50), 8, seed=1, device=CPU)
    fifth = loader.batch(17)[1]
    for step in (0, 40, 3):
        loader.batch(step)
    assert torch.equal(loader.batch(17)[1], fifth)
    assert torch.equal(Loader(numbered(50), 8, seed=1, device=CPU).batch(17)[1], fifth)
    assert not torch.equal(Loader(numbered(50), 8, seed=2, device=CPU).batch(17)[1], fifth)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(DataError, match="a batch of 13"):
        Loader(numbered(12), 13, seed=1, device=CPU)


@pytest.mark.parametrize(("padding", "flip"), [(2, True), (2, False), (0, True), (1, True)])
def test_every_augmented_image_is_a_shifted_perhaps_mirrored_original(padding: int, flip: bool) -> None:
    """Against all the crops and mirrors there are, made one by one."""
    images = torch.rand(40, 3, 5, 4)
    augmented = Augmentation(AugmentationSpec(crop_padding=padding, flip=flip))(
        images, torch.Generator().manual_seed(1)
    )
    assert augmented.shape == images.shape
    seen = set()
    for image, result in zip(images, augmented, strict=True):
        candidates = {}
        for mirrored in (False, True) if flip else (False,):
            padded = torch.nn.functional.pad(image, (padding,) * 4)
            for top in range(2 * padding + 1):
                for left in range(2 * padding + 1):
                    crop = padded[:, top : top + 5, left : left + 4]
                    source = torch.nn.functional.pad(image.flip(2), (padding,) * 4)[:, top : top + 5, left : left + 4]
                    candidates[mirrored, top, left] = source if mirrored else crop
        matching = [key for key, candidate in candidates.items() if torch.equal(candidate, result)]
        assert matching
        seen.update(matching)
    assert len(seen) > 1


def test_mirrors_and_shifts_are_evenly_spread() -> None:
    images = torch.zeros(6000, 1, 3, 3)
    images[:, :, 1, 1] = 1
    augmented = Augmentation(AugmentationSpec(crop_padding=1, flip=False))(images, torch.Generator().manual_seed(1))
    share = augmented.mean(dim=0)[0]
    assert share.sum() == pytest.approx(1, abs=1e-4)
    assert (share - 1 / 9).abs().max() < 0.02


def test_no_augmentation_returns_the_images_and_draws_nothing() -> None:
    augment = Augmentation(AugmentationSpec(crop_padding=0, flip=False))
    generator = torch.Generator().manual_seed(1)
    state = generator.get_state()
    images = torch.rand(2, 1, 3, 3)
    assert augment.changes_nothing and augment(images, generator) is images
    assert torch.equal(generator.get_state(), state)
