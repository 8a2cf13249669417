"""Which labels self-training sees, and where its pseudo-labels come from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from models.data.images import DataError, ImageSet, labelled
from models.methods.pgd_at import PGDATObjective
from models.methods.self_training import SelfTrainingParams, relabel
from models.methods.spec import METHODS
from models.networks import IncompatibleModelError, build_model
from models.specs import BackboneSpec, ModelCard, labelled_size
from tests.models.methods.setting import EPS, IMAGES, LABELS, classifier, moment, same, seeded

DATA = ImageSet((IMAGES * 255).round().byte(), LABELS, tuple("0123456789"))
CPU = torch.device("cpu")


def params(**changes: Any) -> SelfTrainingParams:
    return SelfTrainingParams.model_validate({"dataset": {"name": "digits"}, "base_model": "base", **changes})


def test_known_labels_stay_and_all_others_are_the_base_models() -> None:
    base = classifier().eval()
    known = torch.tensor([0, 3, 4])
    found = relabel(params(), DATA, known=known, base=base, device=CPU)
    with torch.no_grad():
        expected = base(DATA.pixels()).argmax(1)
    assert not torch.equal(expected, LABELS)
    expected[known] = LABELS[known]
    assert torch.equal(found.labels, expected) and torch.equal(found.images, DATA.images)
    assert torch.equal(DATA.labels, LABELS), "the data set itself is not changed"


def test_unknown_labels_are_not_looked_at() -> None:
    known = torch.tensor([0, 3, 4])
    hidden = LABELS.clone()
    hidden[torch.tensor([1, 2, *range(5, 24)])] = 0
    blind = ImageSet(DATA.images, hidden, DATA.classes)
    for how in ("classifier", "clusters"):
        both = [
            relabel(params(pseudo_labels=how), data, known=known, base=classifier().eval(), device=CPU).labels
            for data in (DATA, blind)
        ]
        assert torch.equal(*both)


def test_clusters_are_of_the_features_and_repeat_themselves() -> None:
    """Two images far apart, each twelve times, hardly changed."""
    images = torch.zeros(24, 1, 8, 8, dtype=torch.uint8)
    images[12:, :, :, 4:] = 255
    images[::2, :, 0, 0] = 9
    data = ImageSet(images, torch.zeros(24, dtype=torch.int64), DATA.classes)
    chosen = params(pseudo_labels="clusters", clusters=2, seed=2**40)
    found = [relabel(chosen, data, known=torch.arange(0), base=classifier().eval(), device=CPU) for _ in range(2)]
    assert torch.equal(found[0].labels, found[1].labels) and found[0].classes == ("cluster-0", "cluster-1")
    assert len(set(found[0].labels[:12].tolist())) == len(set(found[0].labels[12:].tolist())) == 1
    assert found[0].labels[0] != found[0].labels[12]
    assert (
        relabel(params(pseudo_labels="clusters"), data, known=torch.arange(0), base=classifier(), device=CPU).classes[
            -1
        ]
        == "cluster-9"
    )


def test_a_base_model_that_cannot_give_labels_is_refused() -> None:
    card = ModelCard(
        kind="encoder", backbone=BackboneSpec(width=4, blocks=(1,)), image_shape=(1, 8, 8), mean=(0.5,), std=(0.3,)
    )
    with pytest.raises(IncompatibleModelError, match="need a classifier"):
        relabel(params(), DATA, known=torch.arange(2), base=build_model(card), device=CPU)
    two = card.model_copy(update={"kind": "classifier", "classes": ("a", "b")})
    with pytest.raises(IncompatibleModelError, match="tells 2 classes apart; the data has 10"):
        relabel(params(), DATA, known=torch.arange(2), base=build_model(two), device=CPU)
    mixed = card.model_copy(update={"kind": "classifier", "classes": tuple(reversed(DATA.classes))})
    with pytest.raises(IncompatibleModelError, match="the same names in the same order"):
        relabel(params(), DATA, known=torch.arange(2), base=build_model(mixed), device=CPU)
    with pytest.raises(DataError, match="2000 clusters of 24 images"):
        many = params(pseudo_labels="clusters", clusters=2000)
        relabel(many, DATA, known=torch.arange(2), base=classifier(), device=CPU)


def test_clusters_that_nobody_makes_are_refused() -> None:
    with pytest.raises(ValidationError, match="a classifier makes no clusters"):
        params(clusters=5)
    assert params(clusters=None).pseudo_labels == "classifier"


def test_a_fraction_of_the_labels_is_stratified_and_never_nothing() -> None:
    many = ImageSet(DATA.images.repeat(10, 1, 1, 1), LABELS.repeat(10), DATA.classes)
    found = labelled(many, 0.25, seed=1)
    counts = torch.bincount(many.labels[found], minlength=10)
    assert len(found) == 60 and counts.max() - counts.min() <= 3
    assert torch.equal(found, labelled(many, 0.25, seed=1)) and not torch.equal(found, labelled(many, 0.25, seed=2))
    assert torch.equal(labelled(many, 1.0, seed=1), torch.arange(240))
    assert [labelled_size(240, share) for share in (1e-9, 0.5, 1.0)] == [1, 120, 240]


ADVERSARIAL = ["advprop", "fast-at", "fat", "las-at", "pgd-at", "trades"]
"""What trains a classifier against attacks, of all methods."""


@pytest.mark.parametrize("method", ADVERSARIAL)
def test_by_the_objective_of_a_method_it_trains_as_that_method_does(method: str) -> None:
    """The same loss from the same weights, labels and random numbers; the seed is the self-training's."""
    objective = {"method": method, "attack": {"eps": EPS}}
    if method == "las-at":
        objective["strategy"] = {"backbone": {"width": 4, "blocks": [1]}}
    alone = METHODS[method].params.model_validate({"dataset": {"name": "digits"}, "seed": 5, **objective})
    losses = []
    for spec in (params(objective=objective, seed=5), alone):
        made = METHODS[spec.method].build(spec, classifier(), base=None, augment=same)
        made.modules.train()
        losses.append(made.loss(IMAGES, LABELS, moment=moment(), generator=seeded())[0].item())
    assert losses[0] == losses[1]


def test_its_default_is_pgd_at() -> None:
    assert params().objective == PGDATObjective()


def test_every_adversarial_training_of_a_classifier_has_an_objective() -> None:
    """And the bodies of requests name them all."""
    attacking = [
        entry.name for entry in METHODS.entries() if entry.kind == "train" and "attack" in entry.params.model_fields
    ]
    assert attacking == ADVERSARIAL == [entry.name for entry in METHODS.entries() if entry.objective]
    schema = SelfTrainingParams.model_json_schema()["properties"]["objective"]
    assert [option["properties"]["method"]["const"] for option in schema["oneOf"]] == ADVERSARIAL


@pytest.mark.parametrize(
    ("objective", "location", "message"),
    [
        ("trades", (), "give an object such as"),
        ({"attack": {}}, ("method",), "None is no adversarial training of a classifier; known: advprop, fast-at"),
        ({"method": "standard"}, ("method",), "'standard' is no adversarial training"),
        ({"method": "self-training"}, ("method",), "'self-training' is no adversarial training"),
        ({"method": "pgd-at", "beta": 6}, ("beta",), "Extra inputs"),
        ({"method": "pgd-at", "epochs": 6}, ("epochs",), "Extra inputs"),
        ({"method": "trades", "attack": {"eps": 2}}, ("attack", "eps"), "an linf radius is at most 1"),
    ],
)
def test_an_objective_that_cannot_be_is_refused_at_its_field(
    objective: object, location: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        params(objective=objective)
    (error,) = caught.value.errors()
    assert error["loc"] == ("objective", *location) and message in error["msg"]
