"""CIFAR-100: 60,000 colour photographs of 32×32 pixels in a hundred classes."""

from __future__ import annotations

from pathlib import Path

from models.data.download import exclusive, fetch
from models.data.images import Dataset, ImageSet, Progress
from models.data.spec import DATASETS, DatasetEntry
from models.data.torchvision_sets import dataset, image_set

NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
    can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
    dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
    lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree
    pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea
    seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table
    tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman
    worm
"""
CLASSES = tuple(NAMES.split())


def load(root: Path, progress: Progress | None) -> Dataset:
    from torchvision.datasets import CIFAR100

    with exclusive(root / "cifar100") as folder:
        fetch(CIFAR100.url, folder / CIFAR100.filename, md5=CIFAR100.tgz_md5, progress=progress)

        def split(train: bool) -> ImageSet:
            source = CIFAR100(folder, train=train, download=True)
            return image_set(source.data, source.targets, classes=CLASSES)

        return dataset("cifar100", train=split(True), test=split(False))


DATASETS.add(
    "cifar100",
    DatasetEntry(
        name="cifar100",
        title="CIFAR-100, 32×32 colour",
        image_shape=(3, 32, 32),
        classes=CLASSES,
        train_size=50_000,
        test_size=10_000,
        source="Krizhevsky 2009, Learning multiple layers of features from tiny images",
        load=load,
    ),
)
