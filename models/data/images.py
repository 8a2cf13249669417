"""Labelled images in memory, and the errors that reading them can raise."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.specs import labelled_size


class DataError(ValueError):
    """Data that cannot be used; the message says what is wrong with it and what would be accepted."""


class Progress(Protocol):
    """Called while data is downloaded or decoded; :meth:`models.progress.Reporter.progress` fits."""

    def __call__(self, done: int, total: int, /, *, unit: str, stage: str) -> None: ...


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images uint8 (N, C, H, W), their labels int64 (N,), and the class names by index."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise DataError(f"images must be uint8 (N, C, H, W), not {self.images.dtype} {tuple(self.images.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError(f"labels must be int64 ({len(self.images)},), not {tuple(self.labels.shape)}")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise DataError(f"labels must be 0 to {len(self.classes) - 1}, the index of a class")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.images.shape
        return channels, height, width

    def take(self, index: Tensor) -> ImageSet:
        """The images at the positions ``index`` (M,), in its order."""
        return ImageSet(self.images[index], self.labels[index], self.classes)

    def pixels(self) -> Tensor:
        """Float32 images in [0, 1], shape (N, C, H, W)."""
        return self.images.float() / 255


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split of one image shape and one list of classes.

    ``sha256`` identifies the data: that of the uploaded file, or :func:`content_hash` for a built-in set.
    """

    name: str
    train: ImageSet
    test: ImageSet
    sha256: str

    def __post_init__(self) -> None:
        if self.train.image_shape != self.test.image_shape or self.train.classes != self.test.classes:
            raise DataError(
                f"{self.name}: the splits differ: {self.train.image_shape} and {self.test.image_shape}, "
                f"{len(self.train.classes)} and {len(self.test.classes)} classes"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.train.image_shape

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over the training split, pixels in [0, 1]."""
        moments = ChannelMoments()
        for start in range(0, len(self.train), 4096):
            moments.add(self.train.images[start : start + 4096])
        return moments.statistics()


class ChannelMoments:
    """Mean and spread of each channel, from how often each grey level occurs: exact, and an order faster than sums."""

    def __init__(self) -> None:
        self._counts: Tensor | None = None

    def add(self, images: Tensor) -> None:
        """Count uint8 images (N, C, H, W)."""
        counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in images.unbind(1)])
        self._counts = counts if self._counts is None else self._counts + counts

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation a channel, pixels in [0, 1]."""
        if self._counts is None:
            raise DataError("no images to measure")
        levels = torch.arange(256, dtype=torch.float64)
        pixels = self._counts.sum(1)
        mean = (self._counts * levels).sum(1) / pixels
        variance = ((self._counts * levels.square()).sum(1) / pixels - mean.square()).clamp(min=0)
        # A constant channel has no spread: half a grey level keeps the division by it finite.
        std = variance.sqrt().clamp(min=0.5)
        return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def content_hash(train: ImageSet, test: ImageSet) -> str:
    """SHA-256 over class names, shapes, pixels and labels of both splits."""
    digest = hashlib.sha256(repr(train.classes).encode())
    for split in (train, test):
        digest.update(repr(tuple(split.images.shape)).encode())
        digest.update(split.images.contiguous().numpy().tobytes())
        digest.update(split.labels.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def subset(images: ImageSet, size: int | None, *, seed: int) -> ImageSet:
    """``size`` images with the same share of every class, as :func:`stratified` draws them, in the set's order.

    None, or a size not below the set's, answers the whole set.
    """
    if size is None or size >= len(images):
        return images
    return images.take(stratified(images, size, seed=seed))


def stratified(images: ImageSet, size: int, *, seed: int) -> Tensor:
    """Sorted positions of ``size`` images with the same share of every class (largest remainders), drawn from ``seed``.

    A larger choice of the same seed contains nearly all of a smaller one: each class is cut from one shuffle.
    """
    if size < 1:
        raise DataError(f"a subset needs at least one image, not {size}")
    counts = torch.bincount(images.labels, minlength=len(images.classes))
    quotas = [int(count) * size / len(images) for count in counts]
    take = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda index: (take[index] - quotas[index], index))
    for index in by_remainder[: size - sum(take)]:
        take[index] += 1
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    shuffled = images.labels[order]
    chosen = [order[shuffled == label][:amount] for label, amount in enumerate(take)]
    return torch.cat(chosen).sort().values


def labelled(images: ImageSet, fraction: float, *, seed: int) -> Tensor:
    """Positions of the images whose labels a training may use: the ``fraction``, at least one, stratified."""
    size = labelled_size(len(images), fraction)
    return torch.arange(len(images)) if size == len(images) else stratified(images, size, seed=seed)
