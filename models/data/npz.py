"""Uploaded arrays: an npz with ``x_train, y_train, x_test, y_test`` and perhaps ``classes``. Nothing is unpickled.

Images are uint8 in [0, 255] or floats in [0, 1], of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C of 1 or 3.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from models.data.archive import UploadLimits, read_member
from models.data.images import DataError
from models.data.split import Upload, UploadedSplit

CHUNK = 4096
NEEDED = ("x_train", "y_train", "x_test", "y_test")
MAX_CLASSES = 100_000
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
    labels = {split: _labels(_array(archive, f"y_{split}"), name=f"y_{split}") for split in ("train", "test")}
    if not len(labels["train"]) or not len(labels["test"]):
        raise DataError("both splits need at least one image")
    classes = _classes(archive, labels, named="classes" in found)

    def split(name: str) -> UploadedSplit:
        pixels = _pixels(_array(archive, f"x_{name}"), name=f"x_{name}", count=len(labels[name]), limits=limits)

        def chunks() -> Iterator[Tensor]:
            for start in range(0, len(pixels), CHUNK):
                yield _bytes(pixels[start : start + CHUNK], name=f"x_{name}")

        return UploadedSplit(torch.from_numpy(labels[name]), chunks)

    return Upload("npz", classes, split("train"), split("test"), grey_as_colour=False)


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One member as an array; its header is checked before numpy allocates for it."""
    member = archive.getinfo(f"{name}.npy")
    data = io.BytesIO(read_member(archive, member))
    try:
        version = np.lib.format.read_magic(data)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise DataError(f"{name} is in npy version {version}; 1.0 and 2.0 are accepted")
        shape, _, dtype = read_header(data)
        if dtype.hasobject:
            raise DataError(f"{name} holds pickled Python objects, which are never loaded; save plain arrays")
        count = 1
        for length in shape:
            count *= length
        if count * dtype.itemsize != member.file_size - data.tell():
            raise DataError(f"{name} declares {shape} {dtype}, which is not what follows")
        data.seek(0)
        return np.lib.format.read_array(data, allow_pickle=False)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name} is not a readable array: {error}") from error


def _labels(labels: np.ndarray, *, name: str) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{name} is {labels.dtype} {labels.shape}; whole numbers of shape (N,) are accepted")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < MAX_CLASSES:
        raise DataError(f"{name} must lie in 0 to {MAX_CLASSES - 1}")
    return labels.astype(np.int64)


def _classes(archive: zipfile.ZipFile, labels: dict[str, np.ndarray], *, named: bool) -> tuple[str, ...]:
    count = int(labels["train"].max()) + 1
    if count < 2 or len(np.unique(labels["train"])) != count:
        raise DataError("y_train must use every class from 0 on, and at least two")
    if int(labels["test"].max()) >= count:
        raise DataError(f"y_test names class {int(labels['test'].max())}, of which there is no training image")
    if not named:
        return tuple(map(str, range(count)))
    names = _array(archive, "classes")
    if names.dtype.kind != "U" or names.shape != (count,):
        raise DataError(f"classes is {names.dtype} {names.shape}; text of shape ({count},) is accepted")
    return tuple(names.tolist())


def _pixels(pixels: np.ndarray, *, name: str, count: int, limits: UploadLimits) -> np.ndarray:
    """``pixels`` as (N, C, H, W), still in their own type."""
    if pixels.dtype != np.uint8 and pixels.dtype.kind != "f":
        raise DataError(f"{name} is {pixels.dtype}; uint8 in [0, 255] or floats in [0, 1] are accepted")
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[3] in (1, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or 0 in pixels.shape:
        raise DataError(
            f"{name} has shape {pixels.shape}; (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3, is accepted"
        )
    if len(pixels) != count:
        raise DataError(f"{name} has {len(pixels)} images but {count} labels")
    if pixels.shape[2] * pixels.shape[3] > limits.image_pixels:
        raise DataError(f"{name} has images of more than {limits.image_pixels} pixels")
    return pixels


def _bytes(pixels: np.ndarray, *, name: str) -> Tensor:
    if pixels.dtype.kind == "f":
        # Not (≥ 0 and ≤ 1): so written, NaN is refused too.
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError(f"{name} holds values outside [0, 1], or NaN; floats in [0, 1] are accepted")
        pixels = np.rint(pixels * 255).astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(pixels))
