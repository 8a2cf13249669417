"""LAS-AT: attacks as chosen, the smoothed loss, and a strategy that learns what is rewarded."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from models.methods.las_at import LASATParams, build
from models.methods.las_at_learner import LASATLearner
from models.methods.strategy import draw, log_likelihood
from tests.models.methods.setting import EPS, IMAGES, LABELS, anywhere, classifier, moment, plain_pgd, same, seeded

STRATEGY: dict[str, Any] = {
    "backbone": {"width": 4, "blocks": [1]},
    "eps": [0.2, 1.0],
    "eps_choices": 3,
    "steps": [1, 4],
    "step_size": [0.1, 0.4],
    "step_size_choices": 2,
    "every": 2,
    "lr": 0.5,
}


def learner(*, label_confidence: float = 0.7, **strategy: Any) -> LASATLearner:
    fields = {"dataset": {"name": "digits"}, "strategy": STRATEGY | strategy}
    fields["attack"] = {"eps": EPS, "steps": 2, "step_size": EPS / 4}
    fields["label_confidence"] = label_confidence
    made = build(LASATParams.model_validate(fields), classifier(), base=None, augment=same)
    assert isinstance(made, LASATLearner)
    made.modules.train()
    return made


def test_each_image_is_attacked_as_chosen_for_it() -> None:
    """Against plain PGD on each image alone."""
    made = learner()
    chosen = {
        "eps": torch.linspace(0.02, 0.1, 24),
        "steps": torch.arange(24) % 4 + 1,
        "step_size": torch.linspace(0.04, 0.01, 24),
    }
    attacked = made._attacked(IMAGES, LABELS, chosen, generator=seeded())
    model = made.published().eval()
    start = (IMAGES + 0.1 * (2 * torch.rand(IMAGES.shape, generator=seeded()) - 1)).clamp(0, 1)
    for index in range(24):
        image, label = IMAGES[index : index + 1], LABELS[index : index + 1]
        eps, size = chosen["eps"][index], chosen["step_size"][index]
        point = image + (start[index : index + 1] - image).clamp(-eps, eps)
        for _ in range(int(chosen["steps"][index])):
            point.requires_grad_(True)
            (gradient,) = torch.autograd.grad(functional.cross_entropy(model(point), label), point)
            point = (image + (point.detach() + size * gradient.sign() - image).clamp(-eps, eps)).clamp(0, 1)
        torch.testing.assert_close(attacked[index : index + 1], point)


@pytest.mark.parametrize("share", [0.7, 0.55])
def test_the_labels_share_of_the_target_is_the_one_asked_for(share: float) -> None:
    logits = torch.randn(5, 10, generator=seeded())
    target = torch.full((5, 10), (1 - share) / 9)
    target[torch.arange(5), LABELS[:5]] = share
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(learner(label_confidence=share)._smoothed(logits, LABELS[:5]), expected)


def test_a_target_that_diverged_does_not_take_the_strategy_with_it() -> None:
    made = learner(every=1)
    with torch.no_grad():
        next(made.published().parameters()).fill_(float("nan"))
    before = {name: weight.clone() for name, weight in made._strategy.named_parameters()}
    loss, _ = made.loss(IMAGES, LABELS, moment=moment(), generator=seeded())
    assert loss.isnan()  # which the loop tells, with the step
    assert all(torch.equal(weight, before[name]) for name, weight in made._strategy.named_parameters())


def test_the_likelihood_is_that_of_all_three_choices() -> None:
    table = {name: torch.randn(4, 3, generator=seeded(i)).log_softmax(1) for i, name in enumerate("abc")}
    drawn = {name: torch.tensor([0, 1, 2, 1]) for name in "abc"}
    expected = sum(table[name][row, drawn[name][row]] for name in "abc" for row in range(4)) / 4
    torch.testing.assert_close(log_likelihood(table, drawn), torch.as_tensor(expected))


def test_choices_are_drawn_by_their_probabilities() -> None:
    table = {"eps": torch.tensor([[0.7, 0.2, 0.1]]).log().expand(20_000, 3)}
    share = draw(table, seeded())["eps"].bincount(minlength=3) / 20_000
    torch.testing.assert_close(share, torch.tensor([0.7, 0.2, 0.1]), atol=0.02, rtol=0)


@pytest.mark.parametrize("sureness", [1, 100])
def test_the_reward_is_the_authors(sureness: float) -> None:
    """min(CE(h(x'), y), 10) + 4 robust + 2 clean accuracy, these two after one step of SGD; step by step in float64."""
    made = learner()
    made.modules.double()
    model, images = made.published(), IMAGES.double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(10):  # until some images are classified rightly
        optimizer.zero_grad()
        functional.cross_entropy(model(images), LABELS).backward()
        optimizer.step()
    with torch.no_grad():
        model.head.weight.mul_(sureness)
    attacked = anywhere(images, seeded(5))
    hardness = functional.cross_entropy(copy.deepcopy(model).eval()(attacked), LABELS)
    assert (hardness > 10) == (sureness == 100)
    after = copy.deepcopy(model)
    target = torch.full((24, 10), 0.3 / 9, dtype=torch.float64).scatter(1, LABELS[:, None], 0.7)
    optimizer = torch.optim.SGD(after.parameters(), lr=1.0)
    optimizer.zero_grad()
    (-(target * after(attacked).log_softmax(1)).sum() / 24).backward()
    optimizer.step()
    after.eval()
    start = anywhere(images, seeded())
    strong = plain_pgd(lambda points: functional.cross_entropy(after(points), LABELS), images, start=start, steps=2)
    robust, clean = ((after(points).argmax(1) == LABELS).double().mean() for points in (strong, images))
    assert sureness > 1 or 0 < robust < clean
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reward = made._reward(images, attacked, LABELS, lr=1.0, generator=seeded())
    torch.testing.assert_close(reward.float(), (hardness.clamp(max=10) + 4 * robust + 2 * clean).float())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("reward", [0.001, 100.0])
def test_the_strategy_climbs_its_reward_by_no_more_than_a_step(reward: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of SGD on the likelihood of what was drawn, whose gradient is cut to norm 1, as torch does it."""
    made = learner(lr=0.5)
    monkeypatch.setattr(made, "_reward", lambda *_, **__: torch.tensor(reward))
    twin = copy.deepcopy(made._strategy)
    generator = seeded()
    likelihood = torch.zeros(())
    for table in twin(IMAGES).values():
        position = torch.multinomial(table.detach().exp(), 1, generator=generator)
        likelihood = likelihood + table.gather(1, position).mean()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.5)
    (-likelihood * reward).backward()
    norm = nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
    assert (norm > 1) == (reward > 1)
    optimizer.step()
    old = [weight.clone() for weight in made._strategy.parameters()]
    made._learn_strategy(IMAGES, LABELS, lr=0.1, generator=seeded())
    for weight, start, expected in zip(made._strategy.parameters(), old, twin.parameters(), strict=True):
        torch.testing.assert_close(weight - start, expected - start, rtol=1e-3, atol=1e-7)


def test_the_strategy_learns_what_is_rewarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a reward for small radii alone, small radii become likely; and no other weight moves.

    On one image: a reward is a whole batch's, and one image's share in it drowns in that of the others.
    """
    made = learner(lr=0.1)
    image, label = IMAGES[:1], LABELS[:1]
    target = {name: value.clone() for name, value in made.published().state_dict().items()}

    def reward(images: Tensor, attacked: Tensor, labels: Tensor, *, lr: float, generator: torch.Generator) -> Tensor:
        return -100 * ((attacked - images).abs().amax(dim=(1, 2, 3)).mean() - 0.06)

    monkeypatch.setattr(made, "_reward", reward)

    def small() -> float:
        with torch.no_grad():
            return float(made._strategy(image)["eps"].exp()[:, 0].mean())

    before, generator = small(), seeded()
    for _ in range(60):
        made._learn_strategy(image, label, lr=0.1, generator=generator)
    assert small() > before + 0.2
    assert all(torch.equal(target[name], value) for name, value in made.published().state_dict().items())


def test_the_strategy_learns_every_so_often_and_its_reward_is_told() -> None:
    made = learner()
    weights = [weight.clone() for weight in made._strategy.parameters()]

    def told(step: int) -> dict[str, Tensor]:
        loss, extra = made.loss(IMAGES, LABELS, moment=moment(step), generator=seeded())
        loss.backward()
        assert all(weight.grad is None for weight in made._strategy.parameters())
        return extra

    assert "reward" not in told(0)
    assert all(torch.equal(old, new) for old, new in zip(weights, made._strategy.parameters(), strict=True))
    reward = told(1)["reward"].item()
    assert 0 < reward < 10 + 4 + 2
    assert not all(torch.equal(old, new) for old, new in zip(weights, made._strategy.parameters(), strict=True))


def test_lowest_comes_first() -> None:
    with pytest.raises(ValidationError, match="lowest value first"):
        LASATParams.model_validate({"dataset": {"name": "digits"}, "strategy": {"eps": [2, 1]}})
