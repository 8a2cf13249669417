"""The protocol by presets: the bodies of its training, probing and attacking jobs."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from app.services.datasets import DatasetInfo
from app.services.recipes import GREY_SIDE, TINY_SIDE, Preset, Recipe, cosine, recipe
from models.attacks.parsing import AnyAttack
from models.attacks.spec import AttackParams
from models.methods.spec import METHODS
from models.references import Name
from models.specs import AugmentationSpec, LabelledData, Seed, Spec, TrainingData, labelled_size, most_held_out

VALIDATED_FROM = 1000
"""Labelled images from which on some may be held out."""
MOST_EPOCHS = 100_000
"""That a training takes."""
PREFIX_LENGTH = 60


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
        None,
        min_length=1,
        max_length=32,
        description="attacks of the evaluations; null: FGSM, PGD-20 and CW-Linf-20, of images of at most 8x8 also "
        "PGD-100, in the Linf ball of radius 0.2 for grey images of at most 8x8, 0.1 for grey ones of at most 28x28, "
        "else 8/255. Attacked are 1,000 test images with `quick`, 2,000 with `small`, all with `paper-…`",
    )
    register_prefix: Name | None = Field(
        None,
        max_length=PREFIX_LENGTH,
        description="models are registered as <prefix>-<method>; null: the data set's name",
    )
    seed: Seed = 0


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
    if default_augmentation.crop_area < 1 and "augmentation" in body:
        if max(data.image_shape[1:]) > TINY_SIDE:
            del body["augmentation"]  # contrastive methods that live from their strong one
        else:
            body["augmentation"] = AugmentationSpec.model_validate(body["augmentation"]).model_dump()
    size = _size(params.dataset, data, method)
    if "batch_size" in body:
        body["batch_size"] = min(body["batch_size"], size)
    if size < chosen.for_images:
        body |= cosine(min(MOST_EPOCHS, round(body["epochs"] * chosen.for_images / size)))
    for field in ("attack", "views"):
        if field in fields:
            default = fields[field].get_default(call_default_factory=True)
            body[field] = _sized(_like(default, body.get(field)), eps)
    if "objective" in fields:
        body["objective"] = objective_body(params, data, method=fields["objective"].get_default().method)
    if chosen.looks is not None and _adversarial(method) and METHODS[method].defends:
        body["validation"] = _keeping_the_best(params.dataset, data, every_epochs=body["epochs"] / chosen.looks)
    return {name: value for name, value in body.items() if name in fields}


def objective_body(params: ProtocolParams, data: DatasetInfo, *, method: str) -> dict[str, Any]:
    """What ``method`` minimizes, as its own training does, for a training by it under another name."""
    objective = METHODS[method].objective
    assert objective is not None, "only adversarial methods have one"
    whole = training_body(params, data, method=method)
    return {name: value for name, value in whole.items() if name in objective.model_fields}


def _keeping_the_best(chosen: LabelledData, data: DatasetInfo, *, every_epochs: float) -> dict[str, Any] | None:
    """A training's ``validation`` by PGD at the radius of the images' size: against robust overfitting (Rice et al.
    2020, arXiv 2002.11569). A tenth of the labelled images is held out, at most 500, but one a class; None: too few
    have a label.
    """
    labelled = training_size(chosen, data)
    images = max(min(500, labelled // 10), len(data.classes))
    if labelled < VALIDATED_FROM or images > most_held_out(labelled):
        return None
    eps = perturbation_size(data.image_shape)
    looks = {"images": images, "every_epochs": every_epochs, "keep": "best"}
    return {**looks, "eps": eps, "step_size": eps / 4}


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
    return chosen.adversarial if _adversarial(method) else chosen.plain


def _adversarial(method: str) -> bool:
    """Whether it trains a classifier against attacks."""
    return METHODS[method].kind == "train" and not {"attack", "objective"}.isdisjoint(
        METHODS[method].params.model_fields
    )


def _like(default: Any, chosen: dict[str, Any] | list[Any] | None) -> Any:
    """The recipe's list of attacks; or the method's own at radius 1, with the recipe's steps if it takes several."""
    if isinstance(chosen, list):
        return chosen
    if isinstance(default, tuple):
        return [_like(item, chosen) for item in default]
    values = default.model_dump(mode="json")
    values |= {"eps": 1.0, "step_size": values["step_size"] / values["eps"]}
    if chosen is None or "steps" not in values:
        return values
    return values | {key: value for key, value in chosen.items() if key != "name"}


def _sized(attack: Any, eps: float) -> Any:
    """An attack, or each of a list, whose radius and step were shares of ``eps``."""
    if isinstance(attack, list):
        return [_sized(item, eps) for item in attack]
    return {**attack, "eps": eps * attack["eps"], "step_size": eps * attack["step_size"]}
