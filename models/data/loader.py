"""Batches from a data set that lies on the device as bytes, and augmentation of whole batches there."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from models.data.augmenting import jitter, resized_crop, some_gray
from models.data.images import DataError, ImageSet
from models.distributed import drawn, own_rows
from models.randomness import generator_for
from models.specs import AugmentationSpec


class Loader:
    """Shuffled batches of a device-resident uint8 data set; which images are in batch t depends on (seed, t) alone.

    Every epoch is a fresh permutation; what does not fill a batch is left out of that epoch. Where several processes
    train together, each gets its part of the batch.
    """

    def __init__(self, images: ImageSet, batch_size: int, *, seed: int, device: torch.device) -> None:
        if batch_size > len(images):
            raise DataError(f"a batch of {batch_size} needs more than the {len(images)} images there are")
        self._images = images.images.to(device)
        self._labels = images.labels.to(device)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    @property
    def steps_per_epoch(self) -> int:
        return len(self._images) // self._batch_size

    def index(self, step: int) -> Tensor:
        """Positions (B,) in the data set of the images of batch ``step``, from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            # On the CPU whatever the device is, so that the order is the same everywhere.
            self._order = torch.randperm(len(self._images), generator=generator_for(self._seed, "order", epoch))
            self._epoch = epoch
        chosen = self._order[position * self._batch_size : (position + 1) * self._batch_size]
        return own_rows(chosen).to(self._images.device)

    def labels(self, step: int) -> Tensor:
        """Labels (B,) of batch ``step``."""
        return self._labels[self.index(step)]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch ``step``: float32 images (B, C, H, W) in [0, 1], channels last, and labels (B,)."""
        images = self._images[self.index(step)].to(memory_format=torch.channels_last)
        return images.float() / 255, self.labels(step)


class Augmentation:
    """The random changes of an :class:`AugmentationSpec`, each image its own, by a few operations for the batch."""

    def __init__(self, spec: AugmentationSpec) -> None:
        self._spec = spec

    @property
    def changes_nothing(self) -> bool:
        spec = self._spec
        return spec == AugmentationSpec(crop_padding=0, flip=False)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented copies of images (N, C, H, W), of the same shape, drawn from ``generator`` (on their device)."""
        spec = self._spec
        # Half precision would place pixels, and colours, by halves of a percent.
        with torch.autocast(images.device.type, enabled=False):
            if spec.crop_area < 1:
                images = resized_crop(images, generator, smallest=spec.crop_area)
            if spec.flip or spec.crop_padding:
                images = _shifted(images, generator, padding=spec.crop_padding, flip=spec.flip)
            if spec.jitter:
                images = jitter(images, generator, strength=spec.jitter)
            if spec.gray:
                images = some_gray(images, generator, share=spec.gray)
        return images


def _shifted(images: Tensor, generator: torch.Generator, *, padding: int, flip: bool) -> Tensor:
    """Random crop after zero padding and horizontal flip, by one gather."""
    count, _, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(count, height)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        mirrored = drawn(torch.rand, count, 1, generator=generator, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    if padding:
        sample = partial(torch.randint, 2 * padding + 1)
        shift = drawn(sample, 2, count, 1, dim=1, generator=generator, device=device)
        rows, columns = rows + shift[0], columns + shift[1]
        images = functional.pad(images, (padding,) * 4)
    chosen = torch.arange(count, device=device)[:, None, None]
    # Indexing around the slice puts channels last, which is the layout that convolutions want.
    return images[chosen, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
