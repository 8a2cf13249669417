"""Uploaded arrays: an npz with ``x_train, y_train, x_test, y_test`` and perhaps ``classes``. Nothing is unpickled.

Images are uint8 in [0, 255] or floats in [0, 1], of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1 or 3.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor

from models.data.archive import UploadLimits, opened
from models.data.images import DataError
from models.data.split import CHUNK_BYTES, Upload, UploadedSplit, check_classes
from models.specs import MAX_CLASSES

NEEDED = ("x_train", "y_train", "x_test", "y_test")
LAYOUT = "an npz with x_train, y_train, x_test and y_test is accepted"


def is_npz(archive: zipfile.ZipFile) -> bool:
    """Whether every member is an array, as in an npz."""
    names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def read_npz(archive: zipfile.ZipFile, limits: UploadLimits) -> Upload:
    """The arrays in ``archive``, checked. Raises :class:`DataError`."""
    found = {name.removesuffix(".npy") for name in archive.namelist()}
    missing = [name for name in NEEDED if name not in found]
    strange = sorted(found - {*NEEDED, "classes"})
    if missing or strange:
        raise DataError(
            f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(strange[:10]) or 'none'}; {LAYOUT}"
        )
    labels = {split: _labels(_array(archive, f"y_{split}", limits), name=f"y_{split}") for split in ("train", "test")}
    if not len(labels["train"]) or not len(labels["test"]):
        raise DataError("both splits need at least one image")
    classes = _classes(archive, labels, limits=limits, named="classes" in found)

    def split(name: str) -> UploadedSplit:
        def chunks() -> Iterator[Tensor]:
            return _pixels(archive, f"x_{name}", count=len(labels[name]), limits=limits)

        return UploadedSplit(torch.from_numpy(labels[name]), chunks)

    return Upload("npz", classes, split("train"), split("test"), grey_as_colour=False)


@dataclass(frozen=True)
class _Header:
    """What an npy file declares."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Bytes that follow."""
        return math.prod(self.shape) * self.dtype.itemsize


@contextmanager
def _opened(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[_Header, IO[bytes]]]:
    """The array's header, checked before memory is taken for it, and the file behind it."""
    member = archive.getinfo(f"{name}.npy")
    with opened(archive, member) as file:
        header = _header(file, name)
        if header.dtype.hasobject:
            raise DataError(f"{name} holds pickled Python objects, which are never loaded; save plain arrays")
        if min(header.shape, default=1) < 0 or header.size != member.file_size - file.tell():
            raise DataError(f"{name} declares {header.shape} {header.dtype}, which is not what follows")
        yield header, file


def _header(file: IO[bytes], name: str) -> _Header:
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read is None:
            raise DataError(f"{name} is in npy version {version}; 1.0 and 2.0 are accepted")
        return _Header(*read(file))
    except DataError:
        raise
    except Exception as error:
        # numpy reads the header as a Python literal: beside ValueError there are SyntaxError, MemoryError, and more.
        raise DataError(f"{name} is not a readable array: {error}") from error


def _array(archive: zipfile.ZipFile, name: str, limits: UploadLimits) -> np.ndarray:
    """The whole array."""
    with _opened(archive, name) as (header, file):
        if header.size > limits.array_bytes:
            raise DataError(f"{name} has {header.size} bytes; at most {limits.array_bytes} are accepted")
        order: Literal["F", "C"] = "F" if header.fortran_order else "C"
        data = file.read(header.size)
    try:
        return np.frombuffer(data, header.dtype).reshape(header.shape, order=order)
    except (ValueError, OverflowError) as error:  # of an element without bytes, or an empty array of a huge shape
        raise DataError(f"{name} is not a readable array: {error}") from None


def _labels(labels: np.ndarray, *, name: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{name} is {labels.dtype} {labels.shape}; whole numbers of shape (N,) are accepted")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < MAX_CLASSES:
        raise DataError(f"{name} must lie in 0 to {MAX_CLASSES - 1}")
    return labels.astype(np.int64)


def _classes(
    archive: zipfile.ZipFile, labels: dict[str, np.ndarray], *, limits: UploadLimits, named: bool
) -> tuple[str, ...]:
    count = int(labels["train"].max()) + 1
    if count < 2 or len(np.unique(labels["train"])) != count:
        raise DataError("y_train must use every class from 0 on, and at least two")
    if int(labels["test"].max()) >= count:
        raise DataError(f"y_test names class {int(labels['test'].max())}, of which there is no training image")
    if not named:
        return tuple(map(str, range(count)))
    names = _array(archive, "classes", limits)
    if names.dtype.kind != "U" or names.shape != (count,):
        raise DataError(f"classes is {names.dtype} {names.shape}; text of shape ({count},) is accepted")
    try:
        classes = tuple(names.tolist())
    except (ValueError, SystemError):  # the latter for codes beyond Unicode's last
        raise DataError("classes holds what is no Unicode text") from None
    check_classes(classes)
    return classes


def _pixels(archive: zipfile.ZipFile, name: str, *, count: int, limits: UploadLimits) -> Iterator[Tensor]:
    """uint8 images (M, C, H, W) in chunks, read as they are needed; an array in Fortran order is read whole."""
    with _opened(archive, name) as (header, file):
        _check_images(header, name=name, count=count, limits=limits)
        rows = max(1, CHUNK_BYTES // math.prod(header.shape[1:]))
        if header.fortran_order:
            pixels = _array(archive, name, limits)
        for start in range(0, count, rows):
            shape = (min(rows, count - start), *header.shape[1:])
            if header.fortran_order:
                chunk = pixels[start : start + rows]
            else:
                chunk = np.frombuffer(file.read(math.prod(shape) * header.dtype.itemsize), header.dtype).reshape(shape)
            yield _bytes(_channels_first(chunk), name=name)


def _check_images(header: _Header, *, name: str, count: int, limits: UploadLimits) -> None:
    shape = header.shape
    if header.dtype != np.uint8 and header.dtype.kind != "f":
        raise DataError(f"{name} is {header.dtype}; uint8 in [0, 255] or floats in [0, 1] are accepted")
    channels_last = len(shape) == 4 and shape[3] in (1, 3)
    if 0 in shape or not (len(shape) == 3 or channels_last or (len(shape) == 4 and shape[1] in (1, 3))):
        raise DataError(f"{name} has shape {shape}; (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3, is accepted")
    if shape[0] != count:
        raise DataError(f"{name} has {shape[0]} images but {count} labels")
    height, width = shape[1:3] if len(shape) == 3 or channels_last else shape[2:]
    if height * width > limits.image_pixels:
        raise DataError(f"{name} has images of more than {limits.image_pixels} pixels")


def _channels_first(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 3:
        return pixels[:, None]
    return pixels.transpose(0, 3, 1, 2) if pixels.shape[3] in (1, 3) else pixels


def _bytes(pixels: np.ndarray, *, name: str) -> Tensor:
    if pixels.dtype.kind == "f":
        # Not (≥ 0 and ≤ 1): so written, NaN is refused too.
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError(f"{name} holds values outside [0, 1], or NaN; floats in [0, 1] are accepted")
        pixels = np.rint(pixels * 255).astype(np.uint8)
    return torch.from_numpy(np.array(pixels, order="C"))
