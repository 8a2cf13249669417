"""The protocol's presets: what each step of the paper's pipeline runs with, by preset and size of the images.

``quick`` fits a laptop's minutes, ``small`` an hour or so of one GPU, ``paper-resnet…`` are the settings of C-LEAD
(arXiv 2510.27249) where it gives them and the methods' own defaults where it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from app.services.datasets import DatasetInfo
from models.attacks.parsing import AnyAttack
from models.attacks.spec import AttackParams
from models.methods.spec import METHODS
from models.specs import LabelledData, Name, Seed, Spec, TrainingData, labelled_size

Preset = Literal["quick", "small", "paper-resnet18", "paper-resnet34", "paper-resnet50"]

# Without augmentation the features are computed once for all epochs; on digits it is also 5 points better.
_PLAIN_PROBE: dict[str, Any] = {
    "optimizer": {"name": "adam", "lr": 1e-2, "weight_decay": 0.0},
    "augmentation": {"crop_padding": 0, "flip": False},
}

TINY_SIDE = 8
GREY_SIDE = 28
PREFIX_LENGTH = 60
NO_AUGMENTATION = {"crop_padding": 0, "flip": False}
"""For probes that must be quick: the features of an image that never changes are computed once."""


class ProtocolParams(Spec):
    """The whole of the paper in one call: train or pretrain and probe each method, then attack every classifier."""

    preset: Preset = Field("quick", description="how large the networks are and how long they train")
    dataset: LabelledData
    methods: list[Annotated[str, Field(max_length=100)]] = Field(
        default_factory=lambda: ["standard", "clead", "pgd-at"],
        min_length=1,
        max_length=20,
        description='methods to compare; "standard" is the undefended base, the "before" of the comparison',
    )
    attacks: list[Annotated[AttackParams, AnyAttack()]] | None = Field(
        None, min_length=1, max_length=32, description="attacks of the evaluations; null: FGSM, PGD-20 and CW-Linf-20"
    )
    register_prefix: Name | None = Field(
        None,
        max_length=PREFIX_LENGTH,
        description="models are registered as <prefix>-<method>; null: the data set's name",
    )
    seed: Seed = 0


@dataclass(frozen=True)
class Recipe:
    """How one preset trains on images of one size. Methods fall into three roles by the fields of their parameters.

    ``plain``: supervised, no attack; ``adversarial``: supervised, with an ``attack``; ``contrastive``: pretraining.
    """

    backbone: dict[str, Any]
    shared: dict[str, Any]
    plain: dict[str, Any]
    adversarial: dict[str, Any]
    contrastive: dict[str, Any]
    probe: dict[str, Any]
    test_images: int | None


def perturbation_size(image_shape: tuple[int, int, int]) -> float:
    """The Linf radius that the field uses for images of this size: 0.2, 0.1 or 8/255, in pixels of [0, 1].

    8×8 grey digits, 28×28 grey images (MNIST, Fashion-MNIST at 0.1), everything else.
    """
    channels, height, width = image_shape
    side = max(height, width)
    if channels == 1 and side <= TINY_SIDE:
        return 0.2
    if channels == 1 and side <= GREY_SIDE:
        return 0.1
    return 8 / 255


def recipe(preset: Preset, image_shape: tuple[int, int, int]) -> Recipe:
    """The recipe of a preset for images of this size."""
    if preset == "quick":
        return _quick(image_shape)
    if preset == "small":
        return _small(image_shape)
    return _paper(preset.removeprefix("paper-"))


def training_body(params: ProtocolParams, data: DatasetInfo, *, method: str) -> dict[str, Any]:
    """The body of POST /jobs/pretrain or /jobs/train for ``method``."""
    chosen = recipe(params.preset, data.image_shape)
    eps = perturbation_size(data.image_shape)
    fields = METHODS[method].params.model_fields
    body: dict[str, Any] = {
        "method": method,
        "backbone": chosen.backbone,
        "dataset": _data(params.dataset, method),
        "seed": params.seed,
        **chosen.shared,
        **_role(chosen, method),
    }
    default_augmentation = fields["augmentation"].get_default(call_default_factory=True)
    if default_augmentation.crop_area < 1 and max(data.image_shape[1:]) > TINY_SIDE:
        body.pop("augmentation", None)  # contrastive methods that live from their strong one
    if "batch_size" in body:
        body["batch_size"] = min(body["batch_size"], _size(params.dataset, data, method))
    for field in ("attack", "views"):
        if field in fields:
            default = fields[field].get_default(call_default_factory=True)
            body[field] = _scaled(_like(default, body.get(field)), eps)
    return {name: value for name, value in body.items() if name in fields}


def probe_body(params: ProtocolParams, data: DatasetInfo, *, model: str) -> dict[str, Any]:
    """The body of POST /jobs/probe on a pretrained ``model``."""
    probe = dict(recipe(params.preset, data.image_shape).probe)
    probe["batch_size"] = min(probe.get("batch_size", 128), training_size(params.dataset, data))
    return {"model": model, "dataset": params.dataset.model_dump(mode="json"), "seed": params.seed, **probe}


def evaluation_body(params: ProtocolParams, data: DatasetInfo, *, model: str) -> dict[str, Any]:
    """The body of POST /evaluate on a classifier, on the test split."""
    images = recipe(params.preset, data.image_shape).test_images
    subset = None if images is None or images >= data.test_size else images
    if params.attacks is not None:
        attacks = [attack.model_dump(mode="json") for attack in params.attacks]
    else:
        attacks = standard_attacks(data.image_shape)
    dataset = {"name": params.dataset.name, "split": "test", "subset": subset, "seed": params.seed}
    return {"model": model, "dataset": dataset, "attacks": attacks, "examples": 16, "seed": params.seed}


def standard_attacks(image_shape: tuple[int, int, int]) -> list[dict[str, Any]]:
    """FGSM, PGD-20 and CW-Linf-20 with steps of eps/4; on tiny images also PGD-100, which finds more there."""
    eps = perturbation_size(image_shape)
    ball = {"norm": "linf", "eps": eps}
    attacks = [
        {"name": "fgsm", "eps": eps},
        {"name": "pgd", **ball, "steps": 20, "step_size": eps / 4},
        {"name": "cw-linf", "eps": eps, "steps": 20, "step_size": eps / 4},
    ]
    if max(image_shape[1:]) <= TINY_SIDE:
        attacks.append({"name": "pgd", **ball, "steps": 100, "step_size": eps / 4})
    return attacks


def training_size(chosen: TrainingData, data: DatasetInfo) -> int:
    """Images with a label, or all where labels are not asked for, that a training on ``chosen`` sees."""
    size = data.train_size if chosen.subset is None else min(chosen.subset, data.train_size)
    return labelled_size(size, chosen.labels_fraction) if isinstance(chosen, LabelledData) else size


def _size(chosen: LabelledData, data: DatasetInfo, method: str) -> int:
    every = METHODS[method].kind == "pretrain" or METHODS[method].relabel is not None
    return training_size(chosen.model_copy(update={"labels_fraction": 1.0}) if every else chosen, data)


def _data(chosen: LabelledData, method: str) -> dict[str, Any]:
    """The images that ``method`` is given: a pretraining does without labels, and takes all."""
    without = {"labels_fraction"} if METHODS[method].kind == "pretrain" else set()
    return chosen.model_dump(mode="json", exclude=without)


def _role(chosen: Recipe, method: str) -> dict[str, Any]:
    entry = METHODS[method]
    if entry.kind == "pretrain":
        return chosen.contrastive
    return chosen.adversarial if "attack" in entry.params.model_fields else chosen.plain


def _like(default: Any, chosen: dict[str, Any] | list[Any] | None) -> Any:
    """The method's own attack with the steps that the recipe chose, if it takes several."""
    if not isinstance(chosen, dict):
        return chosen or default
    values = default.model_dump(mode="json")
    if "steps" not in values:
        return values
    return values | {key: value for key, value in chosen.items() if key != "name"}


def _scaled(attack: Any, eps: float) -> Any:
    """The attack, or each of a list, at radius ``eps``, its step the same share of the radius as before."""
    if isinstance(attack, list | tuple):
        return [_scaled(item, eps) for item in attack]
    values = dict(attack) if isinstance(attack, dict) else attack.model_dump(mode="json")
    values["step_size"] = values["step_size"] / values["eps"] * eps
    return {**values, "eps": eps}


def _attack(name: str, *, steps: int, step_size: float) -> dict[str, Any]:
    """An attack at radius 1: the step is a share of the radius."""
    return {"name": name, "eps": 1.0, "steps": steps, "step_size": step_size}


def _sgd(lr: float) -> dict[str, Any]:
    return {"name": "sgd", "lr": lr, "momentum": 0.9, "weight_decay": 5e-4}


def _cosine(epochs: int) -> dict[str, Any]:
    return {"epochs": epochs, "schedule": {"name": "cosine", "warmup_epochs": epochs / 10}}


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
        plain={**_cosine(plain), "optimizer": _sgd(0.1)},
        adversarial={
            **_cosine(adversarial),
            "optimizer": _sgd(0.1),
            "attack": _attack("pgd", steps=5, step_size=0.25),
            "strategy": {"backbone": {"name": "resnet18", **network}},
        },
        contrastive={
            **_cosine(contrastive),
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
    """A whole ResNet-18 of a quarter of the width, ten to twenty epochs."""
    crop = {"crop_padding": max(1, max(image_shape[1:]) // 8), "flip": max(image_shape[1:]) > TINY_SIDE}
    network = {"name": "resnet18", "width": 16}
    return Recipe(
        backbone=network,
        shared={"batch_size": 128, "augmentation": crop},
        plain={**_cosine(20), "optimizer": _sgd(0.1)},
        adversarial={
            **_cosine(20),
            "optimizer": _sgd(0.1),
            "attack": _attack("pgd", steps=7, step_size=0.25),
            "strategy": {"backbone": network},
        },
        contrastive={
            **_cosine(40),
            "optimizer": _sgd(0.2),
            "crops": 2,
            "views": [_attack(name, steps=5, step_size=0.25) for name in ("pgd", "cw")],
        },
        probe={
            "epochs": 60,
            "augmentation": NO_AUGMENTATION,
            "optimizer": {"name": "adam", "lr": 1e-3, "weight_decay": 0.0},
        },
        test_images=2000,
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
