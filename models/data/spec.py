"""The shape of a built-in data set's registry entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.data.images import Dataset, Progress
from models.registry import Registry


@dataclass(frozen=True)
class DatasetEntry:
    """A registered data set; what a listing needs is here, so that nothing is downloaded for it.

    ``load(root, progress)`` answers the data, downloading it below ``root`` the first time.
    """

    name: str
    title: str
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    train_size: int
    test_size: int
    source: str
    load: Callable[[Path, Progress | None], Dataset]


DATASETS: Registry[DatasetEntry] = Registry("data set", package="models.data")
