"""Fashion-MNIST: 70,000 grey pictures of clothes of 28×28 pixels in ten classes."""

from __future__ import annotations

from pathlib import Path

from models.data.download import exclusive, fetch
from models.data.images import Dataset, ImageSet, Progress
from models.data.spec import DATASETS, DatasetEntry
from models.data.torchvision_sets import dataset, image_set

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def load(root: Path, progress: Progress | None) -> Dataset:
    from torchvision.datasets import FashionMNIST

    with exclusive(root / "fashion-mnist") as folder:
        raw = folder / "FashionMNIST" / "raw"
        for filename, md5 in FashionMNIST.resources:
            fetch(f"{FashionMNIST.mirrors[0]}{filename}", raw / filename, md5=md5, progress=progress)

        def split(train: bool) -> ImageSet:
            source = FashionMNIST(folder, train=train, download=True)
            return image_set(source.data, source.targets, classes=CLASSES)

        return dataset("fashion-mnist", train=split(True), test=split(False))


DATASETS.add(
    "fashion-mnist",
    DatasetEntry(
        name="fashion-mnist",
        title="Fashion-MNIST, 28×28 grey",
        image_shape=(1, 28, 28),
        classes=CLASSES,
        train_size=60_000,
        test_size=10_000,
        source="Xiao, Rasul, Vollgraf 2017, Fashion-MNIST, arXiv 1708.07747",
        load=load,
    ),
)
