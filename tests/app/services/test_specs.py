"""A spec that cannot run is refused with pointers; one that can resolves to what repeats the run when posted."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import FieldError, InvalidSpecError
from app.records.session import Database
from app.services import fitting, models, specs
from app.services.datasets import DatasetInfo
from app.services.presets import perturbation_size
from models.methods.spec import METHODS

BACKBONE = {"name": "resnet18", "width": 4, "blocks": [1]}
SELF_TRAINING = {"method": "self-training", "dataset": {"name": "digits", "labels_fraction": 0.02}}
"""With labels for fewer images than a batch has."""
TRAIN = {"method": "standard", "backbone": BACKBONE, "dataset": {"name": "digits"}, "batch_size": 64}
EVALUATE = {"model": "net", "dataset": {"name": "digits"}, "attacks": [{"name": "pgd", "eps": "8/255"}]}
CLUSTERS = {"base_model": "encoder", "pseudo_labels": "clusters"}
FEW = {**SELF_TRAINING, "base_model": "net", "dataset": {"name": "digits", "subset": 9}}
HUGE = {"name": "resnet50", "width": 1024}
LARGE = {"name": "resnet18", "width": 1024}
"""Accepted, but not twice."""
UNNORMALIZED = {"name": "timm/resnet50_gn"}
"""In batches."""
LAS_AT = {"method": "las-at"}
TRANSFER = {"name": "transfer", "source": "clusters", "attack": {"name": "fgsm"}}


def register(database: Database, name: str, **changes: Any) -> None:
    card = {
        "kind": "classifier",
        "backbone": BACKBONE,
        "image_shape": [1, 8, 8],
        "classes": list("0123456789"),
        "mean": [0.3],
        "std": [0.4],
        **changes,
    }
    with database.writing() as session:
        models.register_version(session, name=name, sha256="0" * 64, size=1, card=card)


def validate(database: Database, kind: str, body: dict[str, Any]) -> tuple[dict[str, Any], str | None, dict[str, str]]:
    with database.session() as session:
        return specs.validate(session, kind=kind, body=body)


def refused(database: Database, kind: str, body: dict[str, Any]) -> list[FieldError]:
    with pytest.raises(InvalidSpecError) as refusal:
        validate(database, kind, body)
    return refusal.value.errors


def pointers(database: Database, kind: str, body: dict[str, Any]) -> list[str]:
    return sorted(error["pointer"] for error in refused(database, kind, body))


@pytest.fixture
def registered(database: Database) -> Database:
    register(database, "net")
    register(database, "encoder", kind="encoder", classes=None)
    register(database, "colour", image_shape=[3, 32, 32], mean=[0.5] * 3, std=[0.2] * 3)
    register(database, "two", classes=["a", "b"])
    register(database, "mixed", classes=list("1023456789"))
    register(database, "clusters", classes=[f"cluster-{number}" for number in range(10)])
    return database


def test_a_resolved_spec_resolves_to_itself(registered: Database) -> None:
    for kind, body in (
        ("train", TRAIN),
        ("train", {**TRAIN, "init": "net"}),
        ("probe", {"model": "encoder", "dataset": {"name": "digits"}}),
        ("evaluate", {**EVALUATE, "curve": {"attack": "pgd", "eps": ["1/255", 0.1]}, "require": {"pgd": ">=0.4"}}),
        ("evaluate", {**EVALUATE, "attacks": [{"name": "cw", "norm": "l2"}, {"name": "fgsm"}]}),
        ("protocol", {"dataset": {"name": "digits"}}),
    ):
        spec, _, _ = validate(registered, kind, body)
        assert validate(registered, kind, spec)[0] == spec


def test_defaults_are_written_out_and_models_pinned(registered: Database) -> None:
    spec, register_as, labels = validate(registered, "evaluate", {**EVALUATE, "labels": {"team": "vision"}})
    assert (spec["model"], register_as, labels) == ("net@1", None, {"team": "vision"})
    assert spec["attacks"][0]["eps"] == 8 / 255
    assert spec["attacks"][0]["steps"] == 20
    assert validate(registered, "train", {**TRAIN, "register_as": "mine"})[1] == "mine"
    assert validate(registered, "train", TRAIN)[1] == "standard-resnet18-digits"
    assert validate(registered, "probe", {"model": "encoder", "dataset": {"name": "digits"}})[1] == "encoder-linear"


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("train", {"method": "clead"}, ["/method"]),
        ("train", {"method": ["x"]}, ["/method"]),
        ("train", {"dataset": {"name": "none"}}, ["/dataset/name"]),
        ("train", {"dataset": {"name": "digits", "subset": 2000}}, ["/dataset/subset"]),
        ("train", {"dataset": {"name": "digits", "subset": 32}}, ["/batch_size"]),
        ("train", {"dataset": {"name": "digits", "labels_fraction": 0.02}}, ["/batch_size"]),
        ("train", {**SELF_TRAINING, "base_model": "encoder"}, ["/base_model"]),
        ("train", {**SELF_TRAINING, "base_model": "two"}, ["/base_model"]),
        ("train", {**SELF_TRAINING, "base_model": "mixed"}, ["/base_model"]),
        ("train", {**SELF_TRAINING, "base_model": "colour", "pseudo_labels": "clusters"}, ["/base_model"]),
        ("train", {**SELF_TRAINING, "base_model": "net", "objective": {"method": "standard"}}, ["/objective/method"]),
        (
            "train",
            {**SELF_TRAINING, "base_model": "net", "objective": {"method": "fat", "beta": 1}},
            ["/objective/beta"],
        ),
        ("train", {**SELF_TRAINING, **CLUSTERS, "clusters": 1438}, ["/clusters"]),
        ("train", {**FEW, **CLUSTERS, "batch_size": 2}, ["/clusters"]),
        ("train", {**SELF_TRAINING, "base_model": "net", "clusters": 10}, ["/clusters"]),
        ("train", {**FEW, "batch_size": 2, "validation": {}}, ["/validation/images"]),
        ("train", {"dataset": {"name": "digits", "labels_fraction": 0.0005}}, ["/dataset/labels_fraction"]),
        ("train", {"dataset": {"name": "digits", "subset": 1}}, ["/dataset/subset"]),
        (
            "probe",
            {"model": "net", "dataset": {"name": "digits", "labels_fraction": 0.0005}},
            ["/dataset/labels_fraction"],
        ),
        ("train", {"backbone": {"name": "vgg"}}, ["/backbone/name"]),
        ("train", {"method": "advprop", "backbone": UNNORMALIZED}, ["/backbone/name"]),
        (
            "train",
            {**SELF_TRAINING, "base_model": "net", "objective": {"method": "advprop"}, "backbone": UNNORMALIZED},
            ["/backbone/name"],
        ),
        ("train", {"devices": 2, "backbone": {"name": "timm/efficientnet_b0"}}, ["/devices"]),
        ("train", {"validation": {"eps": 8, "step_size": "510/255"}}, ["/validation/eps", "/validation/step_size"]),
        ("train", {"backbone": {"widht": 3}, "epochs": 0}, ["/backbone/widht", "/epochs"]),
        ("train", {**LAS_AT, "strategy": {"backbone": {"name": "vgg"}}}, ["/strategy/backbone/name"]),
        ("train", {**LAS_AT, "strategy": {"backbone": {"name": "timm/vgg16", "width": 8}}}, ["/strategy/backbone"]),
        ("train", {**LAS_AT, "strategy": {"backbone": HUGE}, "init": "two"}, ["/strategy/backbone"]),
        (
            "train",
            {**SELF_TRAINING, "base_model": "net", "objective": {**LAS_AT, "strategy": {"backbone": {"name": "vgg"}}}},
            ["/objective/strategy/backbone/name"],
        ),
        ("train", {"backbone": HUGE}, ["/backbone"]),
        ("train", {**LAS_AT, "backbone": LARGE, "strategy": {"backbone": LARGE}}, ["/backbone"]),
        ("train", {"init": "none"}, ["/init"]),
        ("train", {"init": "colour"}, ["/init"]),
        ("train", {"init": "net", "backbone": {"name": "resnet18", "width": 8}}, ["/init"]),
        ("train", {"labels": {"": "x"}}, ["/labels/"]),
        ("train", {"register_as": "a b"}, ["/register_as"]),
        ("evaluate", {"model": "encoder"}, ["/model"]),
        ("evaluate", {"model": "colour"}, ["/model"]),
        ("evaluate", {"model": "two"}, ["/model"]),
        ("evaluate", {"model": "mixed"}, ["/model"]),
        ("evaluate", {"model": "net@7", "dataset": {"name": "none"}}, ["/dataset/name", "/model"]),
        ("evaluate", {"attacks": [{"name": "pgd"}, {"name": "fgsm", "stpe": 1}]}, ["/attacks/1/stpe"]),
        ("evaluate", {"attacks": [{"name": "none"}]}, ["/attacks/0/name"]),
        ("evaluate", {"register_as": "x"}, ["/register_as"]),
    ],
)
def test_what_cannot_run_is_refused_where_it_is_wrong(
    registered: Database, kind: str, changes: dict[str, Any], expected: list[str]
) -> None:
    body = {**{"train": TRAIN, "evaluate": EVALUATE, "probe": {}}[kind], **changes}
    assert pointers(registered, kind, body) == expected


@pytest.mark.parametrize(
    ("kind", "changes", "pointer"),
    [
        ("evaluate", {"model": "clusters"}, "/model"),
        ("evaluate", {"attacks": [TRANSFER]}, "/attacks/0/source"),
        ("corruptions", {"model": "clusters"}, "/model"),
        ("protocol", {"attacks": [TRANSFER]}, "/attacks/0/source"),
        ("train", {**SELF_TRAINING, "base_model": "clusters"}, "/base_model"),
    ],
)
def test_a_classifier_of_clusters_is_none_of_the_datas_classes(
    registered: Database, kind: str, changes: dict[str, Any], pointer: str
) -> None:
    data = {"dataset": {"name": "digits"}}
    body = {"train": TRAIN, "evaluate": EVALUATE, "corruptions": {**data, "corruptions": ["fog"]}, "protocol": data}
    (error,) = refused(registered, kind, {**body[kind], **changes})
    assert error["pointer"] == pointer
    assert error["detail"].startswith("clusters@1 tells clusters apart, not the classes of digits; POST /jobs/probe")
    assert validate(registered, "probe", {"model": "clusters", **data})[0]["model"] == "clusters@1"


@pytest.mark.parametrize(
    ("fraction", "images", "says"),
    [
        (0.1, 10, None),
        (0.034, 10, "9 of 49 labelled images would be held out, fewer than one for each of 10 classes; at most"),
        (1.0, 10, None),
    ],
)
def test_one_image_of_each_class_must_be_held_out(
    registered: Database, fraction: float, images: int, says: str | None
) -> None:
    data = {"name": "digits", "labels_fraction": fraction}
    body = {**TRAIN, "dataset": data, "batch_size": 16, "validation": {"images": images}}
    if says is None:
        assert validate(registered, "train", body)[0]["validation"]["images"] == images
    else:
        (error,) = refused(registered, "train", body)
        assert error["pointer"] == "/validation/images" and error["detail"].startswith(says)


def test_how_many_can_be_held_out_is_told() -> None:
    data = DatasetInfo(
        name="many",
        source="",
        kind="upload",
        classes=tuple(map(str, range(100))),
        image_shape=(3, 32, 32),
        train_size=1000,
        test_size=1,
    )
    body = {**TRAIN, "dataset": {"name": "many"}, "validation": {"images": 50}}
    (error,) = fitting.misfits(METHODS["standard"].params.model_validate(body), data, {})
    assert error["pointer"] == "/validation/images" and error["detail"].endswith("100 classes; give 100 to 200")


def test_a_large_backbone_is_accepted_beside_a_small_one(registered: Database) -> None:
    body = {**TRAIN, **LAS_AT, "backbone": LARGE, "strategy": {"backbone": BACKBONE}}
    assert validate(registered, "train", body)[0]["strategy"]["backbone"]["width"] == 4


def test_what_needs_no_labels_takes_models_and_sizes_that_others_do_not(registered: Database) -> None:
    spec, _, _ = validate(registered, "train", {**TRAIN, **SELF_TRAINING, "base_model": "net"})
    assert spec["base_model"] == "net@1"
    assert spec["objective"]["method"] == "pgd-at" and spec["objective"]["attack"]["steps"] == 10
    trained_by = {"objective": {"method": "fast-at", "attack": {"eps": "4/255"}}}
    spec, _, _ = validate(registered, "train", {**TRAIN, **SELF_TRAINING, "base_model": "net", **trained_by})
    assert spec["objective"]["attack"]["eps"] == 4 / 255 and spec["objective"]["guard"]["action"] == "repair"
    clusters = {**TRAIN, **SELF_TRAINING, "base_model": "encoder", "pseudo_labels": "clusters"}
    assert validate(registered, "train", clusters)[0]["base_model"] == "encoder@1"
    deacl = {**TRAIN, "method": "deacl", "base_model": "encoder"}
    assert validate(registered, "pretrain", deacl)[0]["base_model"] == "encoder@1"
    with pytest.raises(InvalidSpecError) as refused:
        validate(registered, "pretrain", {**deacl, "dataset": {"name": "digits", "labels_fraction": 0.5}})
    assert [error["pointer"] for error in refused.value.errors] == ["/dataset/labels_fraction"]


def test_the_radius_follows_the_images() -> None:
    assert perturbation_size((1, 8, 8)) == 0.2
    assert perturbation_size((1, 28, 28)) == 0.1
    assert perturbation_size((3, 32, 32)) == perturbation_size((1, 64, 64)) == 8 / 255
