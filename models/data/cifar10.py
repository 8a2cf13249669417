"""CIFAR-10: 60,000 colour photographs of 32×32 pixels in ten classes."""

from __future__ import annotations

from pathlib import Path

from models.data.download import exclusive, fetch
from models.data.images import Dataset, ImageSet, Progress
from models.data.spec import DATASETS, DatasetEntry
from models.data.torchvision_sets import dataset, image_set

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load(root: Path, progress: Progress | None) -> Dataset:
    from torchvision.datasets import CIFAR10

    with exclusive(root / "cifar10") as folder:
        fetch(CIFAR10.url, folder / CIFAR10.filename, md5=CIFAR10.tgz_md5, progress=progress)

        def split(train: bool) -> ImageSet:
            source = CIFAR10(folder, train=train, download=True)
            return image_set(source.data, source.targets, classes=CLASSES)

        return dataset("cifar10", train=split(True), test=split(False))


DATASETS.add(
    "cifar10",
    DatasetEntry(
        name="cifar10",
        title="CIFAR-10, 32×32 colour",
        image_shape=(3, 32, 32),
        classes=CLASSES,
        train_size=50_000,
        test_size=10_000,
        source="Krizhevsky 2009, Learning multiple layers of features from tiny images",
        load=load,
    ),
)
