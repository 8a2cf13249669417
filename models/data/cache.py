"""Decoded pixels, kept below the folder of the downloads: the next job reads arrays and decodes nothing."""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from models.data.download import exclusive
from models.data.images import Dataset, ImageSet

logger = logging.getLogger(__name__)
CACHE_FOLDER = "decoded"


def kept(root: Path, name: str, *, sha256: str, decode: Callable[[], Dataset]) -> Dataset:
    """The data set of that hash: what is kept of it below ``root``, else what ``decode`` answers, kept from then on.

    Data of another hash is answered and not kept. A damaged file is written again; where none can be written, the
    log says so, and the data is answered all the same.
    """
    cache = root / CACHE_FOLDER / f"{sha256}.npz"
    if cache.is_file():
        try:
            return _read(cache, name, sha256=sha256)
        except (zipfile.BadZipFile, zlib.error, OSError, ValueError, KeyError, EOFError) as error:
            logger.warning("the decoded pixels in %s are damaged (%s); decoding again", cache.name, error)
    dataset = decode()
    if dataset.sha256 == sha256:
        try:
            _write(cache, dataset)
        except OSError as error:
            logger.warning("the decoded pixels of %s cannot be kept (%s)", name, error)
    return dataset


def _write(cache: Path, dataset: Dataset) -> None:
    with exclusive(cache.parent):
        temporary = cache.with_name(f".{cache.name}.part")
        try:
            with temporary.open("wb") as file:
                np.savez(
                    file,
                    x_train=dataset.train.images.numpy(),
                    y_train=dataset.train.labels.numpy(),
                    x_test=dataset.test.images.numpy(),
                    y_test=dataset.test.labels.numpy(),
                    classes=np.array(dataset.classes),
                )
            temporary.replace(cache)
        finally:
            temporary.unlink(missing_ok=True)


def _read(cache: Path, name: str, *, sha256: str) -> Dataset:
    with np.load(cache, allow_pickle=False) as arrays:
        classes = tuple(arrays["classes"].tolist())

        def split(part: str) -> ImageSet:
            return ImageSet(torch.from_numpy(arrays[f"x_{part}"]), torch.from_numpy(arrays[f"y_{part}"]), classes)

        return Dataset(name, split("train"), split("test"), sha256=sha256)
