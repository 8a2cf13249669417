"""Validation on held-out training images: what is held out, what is measured, and that an early end is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from models.data import DataError, Dataset, load
from models.data.images import ImageSet
from models.methods.self_training import SelfTrainingParams
from models.methods.spec import METHODS
from models.networks import build_model
from models.specs import BackboneSpec, ModelCard, ValidationSpec
from models.training import _trained_on, train
from models.validation import PGD, NearestMean, Validation
from tests.models.methods.setting import IMAGES, LABELS, classifier
from tests.models.recording import Recorder

CPU = torch.device("cpu")
SPEC = ValidationSpec(images=24, eps=0.1, steps=3, step_size=0.05)
HELD = ImageSet((IMAGES * 255).round().byte(), LABELS, tuple("0123456789"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load("digits", root=tmp_path_factory.mktemp("data"))


def split(digits: Dataset, **fields: Any) -> tuple[ImageSet, ImageSet]:
    method = METHODS[fields.get("method", "pgd-at")]
    params = method.params.model_validate({"dataset": {"name": "digits"}, "validation": {"images": 200}, **fields})
    return _trained_on(digits.train, method, params, base=classifier().eval(), device=CPU, kept={})


def numbered(data: ImageSet, whole: ImageSet) -> set[int]:
    """Positions in ``whole`` of the images of ``data``."""
    places = {tuple(image.flatten().tolist()): place for place, image in enumerate(whole.images)}
    return {places[tuple(image.flatten().tolist())] for image in data.images}


@pytest.mark.parametrize("method", ["pgd-at", "clead"])
def test_what_is_held_out_is_stratified_and_not_trained_on(method: str, digits: Dataset) -> None:
    trained, held = split(digits, method=method)
    assert len(held) == 200 and len(trained) == len(digits.train) - 200
    assert not numbered(trained, digits.train) & numbered(held, digits.train)
    counts = torch.bincount(held.labels)
    assert counts.max() - counts.min() <= 2
    again = split(digits, method=method)
    assert torch.equal(again[1].images, held.images)
    assert not torch.equal(split(digits, method=method, seed=1)[1].images, held.images)


def test_without_validation_nothing_is_held_out(digits: Dataset) -> None:
    trained, held = split(digits, validation=None)
    assert len(held) == 0 and torch.equal(trained.images, digits.train.images)


def test_of_few_labels_a_fifth_is_held_out_and_no_other_label_is_used(digits: Dataset) -> None:
    data = {"name": "digits", "labels_fraction": 0.1}
    known = round(0.1 * len(digits.train))
    trained, held = split(digits, dataset=data)
    assert len(held) == known // 5 and len(trained) == known - known // 5
    every, same = split(digits, method="self-training", base_model="base", dataset=data)
    assert torch.equal(same.images, held.images)
    assert len(every) == len(digits.train) - len(held)
    true = dict(enumerate(digits.train.labels.tolist()))
    where = numbered(trained, digits.train)
    places = {tuple(image.flatten().tolist()): place for place, image in enumerate(digits.train.images)}
    for image, label in zip(every.images, every.labels.tolist(), strict=True):
        place = places[tuple(image.flatten().tolist())]
        assert place not in where or label == true[place]
    with pytest.raises(DataError, match=r"5 of the 29 labelled images .* not one a class"):
        split(digits, dataset={"name": "digits", "labels_fraction": 0.02})


def test_clusters_are_not_validated() -> None:
    fields = {"dataset": {"name": "digits"}, "base_model": "b", "pseudo_labels": "clusters", "validation": {}}
    with pytest.raises(ValueError, match="leave validation null"):
        SelfTrainingParams.model_validate(fields)


def test_a_classifiers_figures_are_those_of_a_plain_loop() -> None:
    model = classifier()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = Validation(model, HELD, HELD, spec=SPEC, seed=7, device=CPU)
    first = found()
    assert first == found(), "the same model gives the same answer"
    assert model.training and all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    model.eval()
    clean = (model(HELD.pixels()).argmax(1) == LABELS).float().mean().item()
    assert first["validation_accuracy"] == pytest.approx(clean)
    # Of many plain attacks by the same steps none differs by more than the luck of its start.
    robust = []
    for seed in range(5):
        start = HELD.pixels() + 0.1 * (2 * torch.rand(IMAGES.shape, generator=torch.Generator().manual_seed(seed)) - 1)
        points = start.clamp(0, 1)
        for _ in range(3):
            points = points.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(functional.cross_entropy(model(points), LABELS, reduction="sum"), points)
            points = (points + 0.05 * gradient.sign()).clamp(HELD.pixels() - 0.1, HELD.pixels() + 0.1).clamp(0, 1)
        both = (model(points).argmax(1) == LABELS) & (model(HELD.pixels()).argmax(1) == LABELS)
        robust.append(both.float().mean().item())
    assert min(robust) - 0.09 <= first[PGD] <= max(robust) + 0.09


def test_an_encoders_classes_are_told_apart_by_their_mean_features() -> None:
    card = ModelCard(
        kind="encoder", backbone=BackboneSpec(width=8, blocks=(1,)), image_shape=(1, 8, 8), mean=(0.5,), std=(0.3,)
    )
    encoder = build_model(card, seed=1).eval()
    with torch.no_grad():
        features = encoder(HELD.pixels())
        logits = NearestMean(encoder, features, HELD)(HELD.pixels())
        unit = functional.normalize(features, dim=1)
        for label in range(10):
            mean = unit[label == LABELS].mean(0)
            torch.testing.assert_close(logits[:, label], 10 * functional.cosine_similarity(unit, mean[None]))
    told = Validation(encoder, HELD, HELD, spec=SPEC, seed=0, device=CPU)()
    assert set(told) == {"validation_knn_accuracy", PGD} and 0 <= told[PGD] <= 1


def test_the_bank_is_of_every_class_though_the_images_are_sorted_by_class() -> None:
    many = HELD.take(LABELS.argsort().repeat_interleave(200))
    encoder = build_model(classifier().card.model_copy(update={"kind": "encoder", "classes": None}), seed=1)
    made = Validation(encoder, HELD, many, spec=SPEC, seed=0, device=CPU)
    counts = torch.bincount(made._bank.labels, minlength=10)
    assert len(made._bank) == 2000 and torch.equal(counts > 0, torch.bincount(LABELS, minlength=10) > 0)
    assert (counts / 2000 - torch.bincount(LABELS, minlength=10) / len(LABELS)).abs().max() < 1e-3


def test_a_training_that_ends_early_says_so(digits: Dataset, tmp_path: Path) -> None:
    """Nothing is robust at this radius, so no look is better than the first."""
    fields = {
        "dataset": {"name": "digits", "subset": 300},
        "backbone": {"width": 4, "blocks": [1]},
        "batch_size": 60,
        "epochs": 9,
        "validation": {"images": 60, "eps": 1, "step_size": 1, "steps": 2, "patience": 2},
    }
    spec = METHODS["standard"].params.model_validate(fields)
    arguments: dict[str, Any] = {"init": None, "base": None, "workdir": tmp_path, "resume": None, "device": "cpu"}
    result = train(spec, digits, reporter=Recorder(), **arguments).result
    assert result["steps"] == 12 and result[f"best_{PGD}"] <= 0.1
    (warning,) = result["warnings"]
    assert warning["code"] == "stopped-early" and warning["detail"].startswith("ended after 12 of 36 updates: 2 looks")
