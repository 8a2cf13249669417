"""An upload as it is read: chunks of decoded images, so that checking it takes little memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.data.images import ChannelMoments, DataError, Dataset, ImageSet, Progress
from models.fields import MAX_LABEL, check_label
from models.specs import MAX_CLASSES

CHUNK_BYTES = 32 << 20
"""Of decoded images at one time, if one image has no more; measuring them takes eight times as much."""


def check_classes(classes: Collection[str]) -> None:
    """Raise :class:`DataError` for names of classes that no model's card could carry, or too many of them."""
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{len(classes)} classes; at most {MAX_CLASSES} are accepted")
    for name in classes:
        if len(name) > MAX_LABEL:
            raise DataError(f"the class {name[:20]!r}… has {len(name)} characters; at most {MAX_LABEL} are accepted")
        try:
            check_label(name)
        except ValueError as error:
            raise DataError(f"the class {name!r}: {error}") from None


@dataclass(frozen=True)
class UploadedSplit:
    """One split before its images are decoded.

    ``chunks()`` yields uint8 (M, C, H, W) in the order of ``labels`` (N,), and raises :class:`DataError` at the first
    image that cannot be used.
    """

    labels: Tensor
    chunks: Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class Upload:
    """A whole upload before its images are decoded. ``grey_as_colour``: even grey images come with three channels."""

    format: str
    classes: tuple[str, ...]
    train: UploadedSplit
    test: UploadedSplit
    grey_as_colour: bool


def image_count(upload: Upload) -> int:
    return len(upload.train.labels) + len(upload.test.labels)


class _Colour:
    """Whether any image had colour, and the shape that all must share."""

    def __init__(self, upload: Upload) -> None:
        self.seen = not upload.grey_as_colour
        self.shape: tuple[int, ...] | None = None

    def look(self, chunk: Tensor) -> Tensor:
        shape = tuple(chunk.shape[1:])
        if self.shape is not None and shape != self.shape:
            raise DataError(
                f"images of {_size(self.shape)} and {_size(shape)} pixels are mixed; all must be of one size"
            )
        self.shape = shape
        if not self.seen:
            self.seen = not (torch.equal(chunk[:, 0], chunk[:, 1]) and torch.equal(chunk[:, 0], chunk[:, 2]))
        return chunk


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, reversed(shape[1:])))


@dataclass(frozen=True)
class Measured:
    """What one pass over every image finds: their shape (C, H, W) and the training split's channel statistics."""

    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def measure(upload: Upload) -> Measured:
    """Decode every image once and keep none."""
    colour = _Colour(upload)
    moments = ChannelMoments()
    for chunk in upload.train.chunks():
        moments.add(colour.look(chunk))
    for chunk in upload.test.chunks():
        colour.look(chunk)
    mean, std = moments.statistics()
    channels, height, width = colour.shape or (0, 0, 0)
    if not colour.seen:
        channels, mean, std = 1, mean[:1], std[:1]
    return Measured((channels, height, width), mean, std)


def collect(upload: Upload, name: str, *, sha256: str, progress: Progress | None) -> Dataset:
    """Decode every image into memory."""
    colour = _Colour(upload)
    total = image_count(upload)
    done = 0
    images: list[Tensor] = []
    for split in (upload.train, upload.test):
        parts: list[Tensor] = []
        for chunk in split.chunks():
            parts.append(colour.look(chunk))
            done += len(chunk)
            if progress is not None:
                progress(done, total, unit="image", stage="decode")
        images.append(torch.cat(parts))
    if not colour.seen:
        images = [part[:, :1].contiguous() for part in images]
    train = ImageSet(images[0], upload.train.labels, upload.classes)
    test = ImageSet(images[1], upload.test.labels, upload.classes)
    return Dataset(name, train, test, sha256=sha256)
