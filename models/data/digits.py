"""scikit-learn's digits: 1,797 real handwritten digits of 8×8 grey pixels. No download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from models.data.cache import kept
from models.data.images import Dataset, ImageSet, Progress, content_hash
from models.data.spec import DATASETS, DatasetEntry

CLASSES = tuple("0123456789")
TEST_SIZE = 360
SPLIT_SEED = 0
SHA256 = "4ce7f29a079c1d60543df70d3634ae96d220a279cada64f4ea33b305b0d21d63"


def load(root: Path, progress: Progress | None) -> Dataset:
    """The set with a fixed stratified split; grey levels 0 to 16 become 0 to 255. Kept below ``root`` once decoded."""
    return kept(root, "digits", sha256=SHA256, decode=_decode)


def _decode() -> Dataset:
    from sklearn.datasets import load_digits  # costs more than half of what torch does
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(pixels)), test_size=TEST_SIZE, random_state=SPLIT_SEED, stratify=bunch.target
    )

    def split(index: np.ndarray) -> ImageSet:
        return ImageSet(
            torch.from_numpy(pixels[index]).unsqueeze(1),
            torch.from_numpy(bunch.target[index].astype(np.int64)),
            CLASSES,
        )

    sets = split(train), split(test)
    return Dataset("digits", *sets, sha256=content_hash(*sets))


DATASETS.add(
    "digits",
    DatasetEntry(
        name="digits",
        title="Handwritten digits, 8×8 grey (scikit-learn)",
        image_shape=(1, 8, 8),
        classes=CLASSES,
        train_size=1797 - TEST_SIZE,
        test_size=TEST_SIZE,
        source="E. Alpaydin, C. Kaynak 1998, Optical recognition of handwritten digits, UCI (test part)",
        load=load,
    ),
)
