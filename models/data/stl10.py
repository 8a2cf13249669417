"""STL-10: 13,000 labelled colour photographs of 96×96 pixels in ten classes (its unlabelled images are left out)."""

from __future__ import annotations

from pathlib import Path

from models.data.download import exclusive, fetch
from models.data.images import Dataset, ImageSet, Progress
from models.data.spec import DATASETS, DatasetEntry
from models.data.torchvision_sets import dataset, image_set

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


def load(root: Path, progress: Progress | None) -> Dataset:
    from torchvision.datasets import STL10

    with exclusive(root / "stl10") as folder:
        fetch(STL10.url, folder / STL10.filename, md5=STL10.tgz_md5, progress=progress)

        def split(name: str) -> ImageSet:
            source = STL10(folder, split=name, download=True)
            return image_set(source.data, source.labels, classes=CLASSES)

        return dataset("stl10", train=split("train"), test=split("test"))


DATASETS.add(
    "stl10",
    DatasetEntry(
        name="stl10",
        title="STL-10, 96×96 colour",
        image_shape=(3, 96, 96),
        classes=CLASSES,
        train_size=5_000,
        test_size=8_000,
        source="Coates, Lee, Ng 2011, An analysis of single-layer networks in unsupervised feature learning",
        load=load,
    ),
)
