"""Data sets by name, and uploaded ones: checking them, and reading them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.data.archive import UploadLimits, open_archive
from models.data.cache import kept
from models.data.folder import read_folder
from models.data.images import Dataset, Progress
from models.data.npz import is_npz, read_npz
from models.data.spec import DATASETS
from models.data.split import Upload, collect, measure


@dataclass(frozen=True)
class UploadSummary:
    """What an upload holds. ``mean`` and ``std`` are the training split's, a channel, pixels in [0, 1]."""

    format: Literal["zip", "npz"]
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train_size: int
    test_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str


def check_upload(path: Path, *, limits: UploadLimits | None = None) -> UploadSummary:
    """Look at every byte of an upload: each image is decoded once, none is kept, nothing is written to disk.

    Raises :class:`DataError` with one line on what is wrong and what would be accepted.
    """
    with _opened(path, limits or UploadLimits()) as upload:
        measured = measure(upload)
        return UploadSummary(
            format="npz" if upload.format == "npz" else "zip",
            classes=upload.classes,
            image_shape=measured.image_shape,
            train_size=len(upload.train.labels),
            test_size=len(upload.test.labels),
            mean=measured.mean,
            std=measured.std,
            sha256=file_hash(path),
        )


def load(
    name: str,
    *,
    root: Path,
    upload: Path | None = None,
    progress: Progress | None = None,
    limits: UploadLimits | None = None,
) -> Dataset:
    """The data set called ``name``: from the file ``upload`` if one is given, else a registered one.

    ``root`` keeps downloads, and decoded pixels by the SHA-256 of the upload or, of digits, their own. Raises
    :class:`DataError`, and :class:`models.registry.UnknownNameError` for a name that is not registered.
    """
    if upload is None:
        return DATASETS[name].load(root, progress)
    sha256 = file_hash(upload)

    def decode() -> Dataset:
        with _opened(upload, limits or UploadLimits()) as opened:
            return collect(opened, name, sha256=sha256, progress=progress)

    return kept(root, name, sha256=sha256, decode=decode)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _opened(path: Path, limits: UploadLimits) -> Iterator[Upload]:
    with open_archive(path, limits) as archive:
        yield read_npz(archive, limits) if is_npz(archive) else read_folder(archive, limits)
