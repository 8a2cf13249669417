"""Evaluations of models and attacks that are not as they should be, and how an evaluation is stopped."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from models.attacks.spec import ATTACKS
from models.data.images import ImageSet
from models.evaluation import AttackError, evaluate
from models.progress import Silent, Stopped
from tests.models.evaluations import COUNT, LADDER, run, spec


def test_a_masked_gradient_shows_as_pgd_above_fgsm(victim, monkeypatch):
    # A PGD that does not climb at all is the extreme of a masked gradient.
    lazy = dataclasses.replace(ATTACKS["pgd"], run=lambda model, images, labels, params, *, noise: images)
    monkeypatch.setitem(ATTACKS._entries, "pgd", lazy)
    result = run(victim, spec([{"name": "fgsm", "eps": 0.15}, {"name": "pgd", "eps": 0.15}])).result
    assert "pgd-above-fgsm" in [warning["code"] for warning in result["warnings"]]
    other_ball = run(victim, spec([{"name": "fgsm", "eps": 0.15}, {"name": "pgd", "eps": 0.05}])).result
    assert "pgd-above-fgsm" not in [warning["code"] for warning in other_ball["warnings"]]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda images: images + 0.2, "outside"),
        (lambda images: (images + 0.2).clamp(0, 1), "left its ball"),
        (lambda images: images * float("nan"), "no numbers: the model's input gradient is not finite"),
        (lambda images: images.double(), "float64"),
    ],
)
def test_an_attack_that_breaks_its_promises_fails_the_evaluation(victim, monkeypatch, broken, message):
    cheat = dataclasses.replace(ATTACKS["pgd"], run=lambda model, images, labels, params, *, noise: broken(images))
    monkeypatch.setitem(ATTACKS._entries, "pgd", cheat)
    with pytest.raises(AttackError, match=message):
        run(victim, spec([{"name": "pgd", "eps": 0.1}]), count=20)


class Constant(nn.Module):
    """Answers ``value`` for every class."""

    def __init__(self, value: float, classes: int = 10) -> None:
        super().__init__()
        self.value, self.classes = value, classes

    def forward(self, images):
        return images.flatten(1).sum(1, keepdim=True) * 0 + torch.full((len(images), self.classes), self.value)


def test_a_model_that_knows_nothing_gets_nothing_right(victim):
    result = run(victim, spec(), model=Constant(0.0)).result
    assert result["clean_accuracy"] == 0
    assert {row["success_rate"] for row in result["attacks"]} == {None}
    json.dumps(result, allow_nan=False)


def test_a_diverged_or_unfitting_model_is_an_error(victim):
    with pytest.raises(AttackError, match="NaN"):
        run(victim, spec(), model=Constant(float("nan")))
    with pytest.raises(AttackError, match="10 classes"):
        run(victim, spec(), model=Constant(0.0, classes=3))
    with pytest.raises(ValueError, match="no images"):
        run(victim, spec(), count=0)


class Recorder(Silent):
    """Keeps the progress, and asks to stop at the ``stop_at``-th question."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.seen: list[tuple[int, int, str, str]] = []
        self.asked = 0
        self.stop_at = stop_at

    def progress(self, done, total, *, unit, stage):
        self.seen.append((done, total, unit, stage))

    def should_stop(self):
        self.asked += 1
        return self.stop_at is not None and self.asked >= self.stop_at


def test_progress_grows_to_its_total_and_names_the_stage(victim):
    recorder = Recorder()
    run(victim, spec(curve={"attack": "pgd", "eps": [0.05, 0.1]}, batch_size=32), reporter=recorder)
    done = [entry[0] for entry in recorder.seen]
    steps = 0.4 + (1 + 2 * 8 + 8 + 8) + 2 * (2 * 8)  # clean, the ladder's four attacks, two radii with two restarts
    assert done == sorted(done) and done[-1] == recorder.seen[-1][1] == COUNT * steps
    assert {entry[1:3] for entry in recorder.seen} == {(COUNT * steps, "image-step")}
    assert recorder.seen[0][3] == "clean"
    assert {stage for _, _, _, stage in recorder.seen} >= {"clean", "fgsm", "pgd", "cw-linf", "curve"}


def test_progress_moves_inside_a_long_attack(victim):
    recorder = Recorder()
    run(victim, spec([{"name": "pgd", "eps": 0.001, "steps": 50}]), reporter=recorder)
    total = recorder.seen[-1][1]
    assert sum(0.1 * total < entry[0] < 0.9 * total for entry in recorder.seen) > 20


def test_a_stop_comes_through_between_two_steps_of_an_attack(victim):
    recorder = Recorder(stop_at=12)
    with pytest.raises(Stopped):
        run(victim, spec([{"name": "pgd", "eps": 0.1, "steps": 1000}], batch_size=1000), reporter=recorder)
    assert recorder.asked == 12
    assert not victim.model.training and all(parameter.requires_grad for parameter in victim.model.parameters())


def test_an_image_set_needs_no_image_of_every_class(victim):
    only = ImageSet(victim.images.images[:3], victim.images.labels[:3], victim.images.classes)
    result = evaluate(victim.model, only, spec(LADDER[:1]), reporter=Silent(), device="cpu").result
    assert len(result["attacks"][0]["per_class"]) == len(set(victim.images.labels[:3].tolist()))
