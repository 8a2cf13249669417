"""What a preset trains with, by the size of the images.

``quick`` fits a laptop's minutes, ``small`` about an hour on two cores for C-LEAD and PGD-AT on CIFAR-10 (others: see
docs/benchmarks.md), ``paper-resnet…`` are the settings of C-LEAD (arXiv 2510.27249) where it gives them and the
methods' own defaults where it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Preset = Literal["quick", "small", "paper-resnet18", "paper-resnet34", "paper-resnet50"]

TINY_SIDE = 8
GREY_SIDE = 28
MOST_PADDING = 64
"""That an augmentation takes."""
NO_AUGMENTATION = {"crop_padding": 0, "flip": False}
"""For probes that must be quick: the features of an image that never changes are computed once."""


@dataclass(frozen=True)
class Recipe:
    """How one preset trains on images of one size. Methods fall into three roles by the fields of their parameters.

    ``plain``: supervised, no attack; ``adversarial``: supervised, with an ``attack``; ``contrastive``: pretraining.
    ``looks``: how often an adversarial training looks at held-out images, the best look's weights being published;
    None: the last weights are. ``for_images``: a training on fewer has more epochs, so that it takes as long.
    """

    backbone: dict[str, Any]
    shared: dict[str, Any]
    plain: dict[str, Any]
    adversarial: dict[str, Any]
    contrastive: dict[str, Any]
    probe: dict[str, Any]
    test_images: int | None
    looks: int | None = None
    for_images: int = 0


def recipe(preset: Preset, image_shape: tuple[int, int, int]) -> Recipe:
    """The recipe of a preset for images of this size."""
    if preset == "quick":
        return _quick(image_shape)
    if preset == "small":
        return _small(image_shape)
    return _paper(preset.removeprefix("paper-"))


def _quick(image_shape: tuple[int, int, int]) -> Recipe:
    """Minutes on two cores; the settings were measured on digits, Fashion-MNIST and CIFAR-10."""
    channels, side = image_shape[0], max(image_shape[1:])
    if side <= TINY_SIDE:
        network: dict[str, Any] = {"width": 32, "blocks": [1, 1]}
        crop, crops, steps, step_size, epochs = {"crop_padding": 1, "flip": False}, 1, 3, 0.417, (15, 20, 25)
    elif channels == 1 and side <= GREY_SIDE:
        network = {"width": 16, "blocks": [1, 1, 1]}
        crop, crops, steps, step_size, epochs = {"crop_padding": 2, "flip": True}, 2, 5, 0.25, (8, 10, 8)
    else:
        network = {"width": 32, "blocks": [1, 1, 1, 1], "stem_stride": 2}
        crop, crops, steps, step_size, epochs = {"crop_padding": 4, "flip": True}, 2, 5, 0.25, (12, 8, 4)
    plain, adversarial, contrastive = epochs
    return Recipe(
        backbone={"name": "resnet18", **network},
        shared={"batch_size": 64, "augmentation": crop},
        plain={**cosine(plain), "optimizer": _sgd(0.1)},
        adversarial={
            **cosine(adversarial),
            "optimizer": _sgd(0.1),
            "attack": _attack("pgd", steps=5, step_size=0.25),
            "strategy": {"backbone": {"name": "resnet18", **network}},
        },
        contrastive={
            **cosine(contrastive),
            "optimizer": _sgd(0.2),
            "crops": crops,
            "views": [_attack(name, steps=steps, step_size=step_size) for name in ("pgd", "cw")],
        },
        probe={
            "epochs": 60,
            "batch_size": 64 if side <= TINY_SIDE else 128,
            "augmentation": NO_AUGMENTATION,
            "optimizer": {"name": "adam", "lr": 1e-2, "weight_decay": 0.0},
        },
        test_images=1000,
    )


def _small(image_shape: tuple[int, int, int]) -> Recipe:
    """A whole ResNet-18 of a quarter of the width. C-LEAD in the form that did best on `quick` (decision 0026)."""
    crop = {
        "crop_padding": min(MOST_PADDING, max(1, max(image_shape[1:]) // 8)),
        "flip": max(image_shape[1:]) > TINY_SIDE,
    }
    network = {"name": "resnet18", "width": 16}
    return Recipe(
        backbone=network,
        shared={"batch_size": 128, "augmentation": crop},
        plain={**cosine(20), "optimizer": _sgd(0.1)},
        adversarial={
            **cosine(8),
            "optimizer": _sgd(0.1),
            "attack": _attack("pgd", steps=7, step_size=0.25),
            "strategy": {"backbone": network},
        },
        contrastive={
            **cosine(10),
            "batch_size": 64,
            "optimizer": _sgd(0.2),
            "crops": 2,
            "views": [_attack(name, eps=1.5, steps=2, step_size=15 / 16) for name in ("pgd", "cw")],
            "views_in_turn": True,
        },
        probe={
            "epochs": 60,
            "augmentation": NO_AUGMENTATION,
            "optimizer": {"name": "adam", "lr": 1e-3, "weight_decay": 0.0},
        },
        test_images=2000,
        looks=8,
        for_images=50_000,
    )


def _paper(backbone: str) -> Recipe:
    """The methods' defaults, which are the paper's settings where it gives them; the whole test split."""
    return Recipe(
        backbone={"name": backbone, "width": 64},
        shared={},
        plain={},
        adversarial={},
        contrastive={},
        probe={"batch_size": 128, "optimizer": {"name": "adam", "lr": 1e-4, "weight_decay": 0.0}},
        test_images=None,
    )


def _attack(name: str, *, eps: float = 1.0, steps: int, step_size: float) -> dict[str, Any]:
    """Radius and step are shares of the radius that the field uses for images of this size."""
    return {"name": name, "eps": eps, "steps": steps, "step_size": step_size}


def _sgd(lr: float) -> dict[str, Any]:
    return {"name": "sgd", "lr": lr, "momentum": 0.9, "weight_decay": 5e-4}


def cosine(epochs: int) -> dict[str, Any]:
    """So many epochs, a tenth of them warm-up."""
    return {"epochs": epochs, "schedule": {"name": "cosine", "warmup_epochs": epochs / 10}}
