"""SVHN: house numbers photographed in the street, 99,289 colour digits of 32×32 pixels (the cropped format)."""

from __future__ import annotations

from pathlib import Path

from models.data.download import exclusive, fetch
from models.data.images import Dataset, ImageSet, Progress
from models.data.spec import DATASETS, DatasetEntry
from models.data.torchvision_sets import dataset, image_set

CLASSES = tuple("0123456789")


def load(root: Path, progress: Progress | None) -> Dataset:
    from torchvision.datasets import SVHN

    with exclusive(root / "svhn") as folder:

        def split(name: str) -> ImageSet:
            url, filename, md5 = SVHN.split_list[name]
            fetch(url, folder / filename, md5=md5, progress=progress)
            source = SVHN(folder, split=name, download=True)
            return image_set(source.data, source.labels, classes=CLASSES)

        return dataset("svhn", train=split("train"), test=split("test"))


DATASETS.add(
    "svhn",
    DatasetEntry(
        name="svhn",
        title="Street View House Numbers, 32×32 colour",
        image_shape=(3, 32, 32),
        classes=CLASSES,
        train_size=73_257,
        test_size=26_032,
        source="Netzer et al. 2011, Reading digits in natural images with unsupervised feature learning",
        load=load,
    ),
)
