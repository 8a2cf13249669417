"""What of a spec does not fit together: batch and data, models and data, backbone and images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel

from app.errors import FieldError
from app.records import ModelVersion
from app.services.datasets import DatasetInfo
from app.services.presets import ProtocolParams, training_size
from models.backbones.spec import complete
from models.corruption_spec import CorruptionParams
from models.corruptions.spec import SMALLEST_SIDE
from models.distributed import unshareable
from models.evaluation_spec import EvaluationParams
from models.methods.self_training import SelfTrainingParams, cluster_names
from models.methods.spec import METHODS
from models.networks import IncompatibleModelError, build_model
from models.probe_spec import ProbeParams
from models.registry import UnknownNameError
from models.specs import (
    BackboneSpec,
    ModelCard,
    TrainingData,
    TrainingParams,
    ValidationSpec,
    held_out_size,
    most_held_out,
)

MAX_PARAMETERS = 4_000_000_000
"""Weights of all backbones of a training, twice those of the largest known: more take a worker's memory for nothing."""

FEWEST_IMAGES = 2
"""Of a training: no batch is smaller."""


def misfits(params: BaseModel, data: DatasetInfo, versions: Mapping[str, ModelVersion]) -> Iterator[FieldError]:
    """For each kind of ``params``; ``versions``: the models that it names, by field."""
    if isinstance(params, TrainingParams | ProbeParams):
        yield from _size_misfits(params, data)
    if isinstance(params, ProtocolParams) and training_size(params.dataset, data) < FEWEST_IMAGES:
        yield _too_few(params.dataset, data)
    if isinstance(params, CorruptionParams) and min(data.image_shape[1:]) < SMALLEST_SIDE:
        detail = f"images of {data.image_shape}; corruptions need at least {SMALLEST_SIDE} pixels a side"
        yield {"pointer": "/dataset/name", "detail": detail}
    for field, version in versions.items():
        card = ModelCard.model_validate(version.card)
        if card.image_shape != data.image_shape:
            detail = f"{version.reference} takes images {card.image_shape}; those of {data.name} are {data.image_shape}"
            yield {"pointer": f"/{field}", "detail": detail}
        elif _gives_labels(params, field) or isinstance(params, EvaluationParams | CorruptionParams | ProtocolParams):
            yield from _classifier_misfits(field, version, card=card, data=data, labelling=_relabels(params))
    if isinstance(params, TrainingParams):
        yield from _backbone_misfits(params, data, versions.get("init"))


def _size_misfits(params: TrainingParams | ProbeParams, data: DatasetInfo) -> Iterator[FieldError]:
    size = known = training_size(params.dataset, data)
    if isinstance(params, TrainingParams):
        if METHODS[params.method].relabel is not None:
            size = training_size(params.dataset.model_copy(update={"labels_fraction": 1.0}), data)
        if params.validation is not None:
            yield from _held_out_misfits(params.validation, known=known, classes=len(data.classes))
        size -= held_out_size(known, params.validation)
    if size < FEWEST_IMAGES:
        yield _too_few(params.dataset, data)
        return
    if isinstance(params, SelfTrainingParams) and params.pseudo_labels == "clusters":
        clusters = params.clusters or len(data.classes)
        if clusters > size:
            yield {"pointer": "/clusters", "detail": f"{clusters} clusters of {size} images; give 2 to {size}"}
    if params.batch_size > size:
        yield {"pointer": "/batch_size", "detail": f"the training has {size} images; give 2 to {size}"}


def _too_few(chosen: TrainingData, data: DatasetInfo) -> FieldError:
    """Which field leaves fewer images than a training needs."""
    drawn = min(chosen.subset or data.train_size, data.train_size)
    if drawn >= FEWEST_IMAGES:
        detail = f"1 of {drawn} images has a label; a training needs {FEWEST_IMAGES}"
        return {"pointer": "/dataset/labels_fraction", "detail": f"{detail}: give at least {FEWEST_IMAGES / drawn:.2g}"}
    if data.train_size >= FEWEST_IMAGES:
        detail = f"a training needs {FEWEST_IMAGES} images; give {FEWEST_IMAGES} to {data.train_size}, or null for all"
        return {"pointer": "/dataset/subset", "detail": detail}
    detail = f"{data.name} has {data.train_size} training images; a training needs {FEWEST_IMAGES}"
    return {"pointer": "/dataset/name", "detail": detail}


def _held_out_misfits(validation: ValidationSpec, *, known: int, classes: int) -> Iterator[FieldError]:
    held, most = held_out_size(known, validation), most_held_out(known)
    if held < classes:
        detail = f"{held} of {known} labelled images would be held out, fewer than one for each of {classes} classes"
        give = f"give {classes} to {most}" if classes <= most else "at most a fifth are: leave validation null"
        yield {"pointer": "/validation/images", "detail": f"{detail}; {give}"}


def _gives_labels(params: Any, field: str) -> bool:
    """Whether the model of this field has to tell the data's classes apart."""
    if field != "base_model":
        return False
    teacher = METHODS[params.method].teacher
    if teacher is None or METHODS[teacher].kind == "pretrain":
        return False
    return getattr(params, "pseudo_labels", "classifier") != "clusters"


def _relabels(params: Any) -> bool:
    """Whether predictions stand where labels of the data do."""
    return isinstance(params, TrainingParams) and METHODS[params.method].relabel is not None


def _classifier_misfits(
    field: str, version: ModelVersion, *, card: ModelCard, data: DatasetInfo, labelling: bool
) -> Iterator[FieldError]:
    if card.kind != "classifier":
        detail = f"{version.reference} is an {card.kind}; a classifier is needed: POST /jobs/probe makes one from it"
        yield {"pointer": f"/{field}", "detail": detail}
        return
    classes = card.classes or ()
    if classes != data.classes and classes == cluster_names(len(classes)):
        detail = f"{version.reference} tells clusters apart, not the classes of {data.name}"
        yield {"pointer": f"/{field}", "detail": f"{detail}; POST /jobs/probe makes a classifier from it"}
    elif len(classes) != len(data.classes):
        detail = f"{version.reference} tells {len(classes)} classes apart; {data.name} has {len(data.classes)}"
        yield {"pointer": f"/{field}", "detail": detail}
    elif not labelling and (moved := _moved(classes, data.classes)) is not None:
        detail = f"{version.reference} has the class {moved!r} at another place than {data.name}"
        yield {"pointer": f"/{field}", "detail": f"{detail}: answers would be counted by place, against the names"}
    elif labelling and classes != data.classes:
        detail = f"the classes of {version.reference} have other names than those of {data.name}, or another order"
        yield {"pointer": f"/{field}", "detail": f"{detail}: its predictions would be wrong labels"}


def _moved(ours: tuple[str, ...], theirs: tuple[str, ...]) -> str | None:
    """A class that both have, and not at the same place; classes of other names may be the same ones."""
    places = {name: place for place, name in enumerate(theirs)}
    return next((name for place, name in enumerate(ours) if places.get(name, place) != place), None)


def _backbone_misfits(params: TrainingParams, data: DatasetInfo, init: ModelVersion | None) -> Iterator[FieldError]:
    sizes: dict[str, int] = {}
    for pointer, backbone in _backbones(params):
        built = _built(backbone, data.image_shape)
        if not isinstance(built, Built):
            yield {"pointer": pointer + built["pointer"], "detail": built["detail"]}
            continue
        sizes[pointer] = built.weights
        if pointer == "/backbone" and params.second_norms and not built.normalized:
            detail = f"{backbone.name} has no batch normalization, of which this training needs a second set"
            yield {"pointer": "/backbone/name", "detail": detail}
        if params.devices > 1 and built.unshared is not None:
            detail = f"{backbone.name} has layers of type {built.unshared}, which several devices cannot share; give 1"
            yield {"pointer": "/devices", "detail": detail}
    if sum(sizes.values()) > MAX_PARAMETERS:
        largest = max(sizes, key=lambda pointer: sizes[pointer])
        detail = f"{sum(sizes.values())} weights in all; at most {MAX_PARAMETERS} are accepted"
        yield {"pointer": largest, "detail": detail}
    elif "/backbone" in sizes and init is not None and _backbone_of(init) != complete(params.backbone):
        yield {"pointer": "/init", "detail": f"{init.reference} has another backbone: {init.card['backbone']}"}


def _backbone_of(version: ModelVersion) -> BackboneSpec:
    return complete(ModelCard.model_validate(version.card).backbone)


def _backbones(value: Any, pointer: str = "") -> Iterator[tuple[str, BackboneSpec]]:
    """Every backbone in a spec, and in specs and lists inside it, with its pointer."""
    if isinstance(value, BackboneSpec):
        yield pointer, value
    elif isinstance(value, BaseModel):
        for field in type(value).model_fields:
            yield from _backbones(getattr(value, field), f"{pointer}/{field}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _backbones(item, f"{pointer}/{index}")


class Built(NamedTuple):
    """What is known of a network that has been built."""

    weights: int
    normalized: bool
    """In batches, by BatchNorm2d."""
    unshared: str | None
    """Type of a layer that takes statistics of a batch which several processes cannot share; None: there is none."""


@lru_cache(maxsize=1000)  # building takes longer than all the rest of a submission
def _built(backbone: BackboneSpec, image_shape: tuple[int, int, int]) -> Built | FieldError:
    """The network, built without memory; or its builder's refusal, with the pointer inside the spec."""
    channels = image_shape[0]
    card = ModelCard(
        kind="encoder", backbone=backbone, image_shape=image_shape, mean=(0.0,) * channels, std=(1.0,) * channels
    )
    try:
        with torch.device("meta"):
            model = build_model(card)
    except UnknownNameError as error:
        return {"pointer": "/name", "detail": str(error)}
    except (IncompatibleModelError, ValueError) as error:
        return {"pointer": "", "detail": str(error)}
    weights = sum(weight.numel() for weight in model.parameters())
    normalized = any(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.modules())
    unshared = next((type(layer).__name__ for layer in unshareable(model)), None)
    return Built(weights, normalized=normalized, unshared=unshared)
