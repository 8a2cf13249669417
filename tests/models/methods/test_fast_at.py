"""One-step adversarial training: the step, and the guard that sees it collapse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchattacks
from torch import Tensor
from torch.nn import functional

from models.loop import DivergedError
from models.methods.fast_at import FastATLearner, FastATParams, FastAttack, GuardSpec
from models.networks import Classifier
from tests.models.methods.setting import EPS, IMAGES, LABELS, classifier, moment, same, seeded


def learner(model: Classifier, *, guard: GuardSpec | None = None, **attack: Any) -> FastATLearner:
    return FastATLearner(model, same, attack=FastAttack(eps=EPS, **attack), guard=guard)


def uniform(room: float) -> Tensor:
    return room * (2 * torch.rand(IMAGES.shape, generator=seeded()) - 1)


@pytest.mark.parametrize(("name", "room", "length"), [("fgsm-rs", EPS, 1.25 * EPS), ("n-fgsm", 2 * EPS, EPS)])
def test_the_step_is_the_papers(name: str, room: float, length: float) -> None:
    model = classifier()
    attacked = learner(model, name=name).perturb(IMAGES, LABELS, moment=moment(), generator=seeded())
    model.eval()
    start = (IMAGES + uniform(room)).clamp(0, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(functional.cross_entropy(model(start), LABELS), start)
    expected = start.detach() + length * gradient.sign()
    if name == "fgsm-rs":
        expected = IMAGES + (expected - IMAGES).clamp(-EPS, EPS)
    torch.testing.assert_close(attacked, expected.clamp(0, 1))


def test_fgsm_rs_is_as_strong_as_torchattacks_ffgsm() -> None:
    model = classifier()
    ours = learner(model, name="fgsm-rs").perturb(IMAGES, LABELS, moment=moment(), generator=seeded())
    model.eval()
    torch.manual_seed(0)
    theirs = torchattacks.FFGSM(model, eps=EPS, alpha=1.25 * EPS)(IMAGES, LABELS)
    with torch.no_grad():
        losses = [functional.cross_entropy(model(points), LABELS).item() for points in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


class Watched(FastATLearner):
    """With accuracies under the step and under PGD that a test sets, and a record of which images it trained on."""

    stands: tuple[float, float] = (0.5, 0.5)

    def look(self, step: int) -> str:
        fast = self._one_step(IMAGES, LABELS, generator=seeded())
        got = self.perturb(IMAGES, LABELS, moment=moment(step), generator=seeded())
        return "fast" if torch.equal(got, fast) else "pgd"


def collapsing(monkeypatch: pytest.MonkeyPatch, guard: GuardSpec) -> Watched:
    made = Watched(classifier(), same, attack=FastAttack(eps=EPS), guard=guard)
    answers = iter(())

    def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
        nonlocal answers
        value = next(answers, None)
        if value is None:
            answers = iter(made.stands)
            value = next(answers)
        return torch.tensor(value)

    monkeypatch.setattr("models.methods.fast_at.accuracy", accuracy)
    return made


def test_a_collapse_is_repaired_by_pgd_until_the_gap_is_half_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    made = collapsing(monkeypatch, GuardSpec(every=5, steps=3, gap=0.2))
    assert [made.look(step) for step in (0, 3, 4, 5)] == ["fast"] * 4
    made.stands = (0.9, 0.6)
    assert [made.look(step) for step in (6, 8, 9, 10, 13)] == ["fast", "fast", "pgd", "pgd", "pgd"]
    made.stands = (0.7, 0.55)
    assert made.look(14) == "pgd", "0.15 is under the gap, but not under half of it"
    made.stands = (0.6, 0.55)
    assert [made.look(step) for step in (16, 19, 20)] == ["pgd", "fast", "fast"]
    (remark,) = made.remarks()
    assert remark["code"] == "catastrophic-overfitting" and "first seen at step 10, 1 times" in remark["detail"]
    # What the guard knows is part of a resume checkpoint.
    resumed = learner(classifier(), guard=GuardSpec())
    resumed.modules.load_state_dict(made.modules.state_dict())
    assert resumed.remarks() == made.remarks()


def test_the_last_update_is_looked_at_and_what_was_not_repaired_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    made = collapsing(monkeypatch, GuardSpec(every=5000, steps=3))
    made.stands = (0.9, 0.1)
    assert [made.look(step) for step in (4, 998, 999)] == ["fast", "fast", "pgd"]
    (remark,) = made.remarks()
    assert "first seen at step 1000, 1 times" in remark["detail"] and "do not use this model" in remark["detail"]


def test_or_it_stops_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    made = collapsing(monkeypatch, GuardSpec(every=5, action="stop"))
    made.stands = (0.9, 0.1)
    with pytest.raises(DivergedError, match=r"catastrophic overfitting at step 10: 0\.90 .* 0\.10 PGD-10"):
        made.look(9)


def test_a_sound_model_is_left_alone() -> None:
    made = learner(classifier(), guard=GuardSpec(every=1))
    for step in range(3):
        made.perturb(IMAGES, LABELS, moment=moment(step), generator=seeded())
    assert made.remarks() == []
    assert made.published() is made.model


def test_step_sizes_default_to_the_papers() -> None:
    def step_size(**attack: Any) -> float:
        params = FastATParams.model_validate({"dataset": {"name": "digits"}, "attack": {"eps": 0.1, **attack}})
        return params.attack.step_size

    assert step_size() == step_size(name="n-fgsm") == pytest.approx(0.1)
    assert step_size(name="fgsm-rs") == pytest.approx(0.125)
    assert step_size(name="fgsm-rs", step_size="1/10") == 0.1
    assert step_size(name="fgsm-rs", eps=0.9) == 1.0
