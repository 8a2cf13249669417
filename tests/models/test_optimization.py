"""Optimizers against timm's and torch's own, and the learning rate of every update."""

import copy
import itertools

import pytest
import torch
from timm.optim import Lars as TimmLars
from torch import nn

from models.methods.spec import METHODS
from models.optimization import build_optimizer, learning_rate
from models.specs import OptimizerSpec, ScheduleSpec


def rates(total: int, **schedule: object) -> list[float]:
    return [
        learning_rate(
            step,
            total,
            optimizer=OptimizerSpec(lr=0.4),
            schedule=ScheduleSpec.model_validate(schedule),
            steps_per_epoch=10,
        )
        for step in range(total)
    ]


def test_warmup_rises_to_the_peak_and_the_cosine_falls() -> None:
    values = rates(100, name="cosine", warmup_epochs=1)
    assert values[:3] == pytest.approx([0.04, 0.08, 0.12])
    assert max(values) == values[9] == pytest.approx(0.4)
    assert values[10] == pytest.approx(0.4)
    assert values[55] == pytest.approx(0.2)
    assert all(a > b > 0 for a, b in itertools.pairwise(values[10:]))


def test_constant_and_a_warmup_longer_than_the_training() -> None:
    assert rates(20, name="constant") == [0.4] * 20
    assert rates(20, warmup_epochs=50)[-1] == pytest.approx(0.4)


def test_step_drops_at_its_milestones_and_cyclic_rises_and_falls_in_lines() -> None:
    values = rates(100, name="step", milestones=[0.5, 0.75], factor=0.1)
    assert values == pytest.approx([0.4] * 50 + [0.04] * 25 + [0.004] * 25)
    values = rates(100, name="cyclic", peak=0.4)
    assert max(values) == pytest.approx(0.4, rel=0.02) and values.index(max(values)) in (39, 40)
    rises = [b - a for a, b in itertools.pairwise(values)]
    assert rises[:38] == pytest.approx([0.01] * 38) and rises[41:] == pytest.approx([-0.4 / 60] * 58)
    assert values[0] > 0 and values[-1] > 0


@pytest.mark.parametrize("method", ["pgd-at", "trades", "las-at", "self-training"])
def test_by_default_the_rate_of_adversarial_training_falls_at_epochs_100_and_105_of_110(method: str) -> None:
    body = {"dataset": {"name": "digits"}} | ({"base_model": "m@1"} if method == "self-training" else {})
    params = METHODS[method].params.model_validate(body)
    updates = 391  # of an epoch: 50,000 images in batches of 128
    found = [
        learning_rate(
            epoch * updates + update,
            params.epochs * updates,
            optimizer=params.optimizer,
            schedule=params.schedule,
            steps_per_epoch=updates,
        )
        for epoch in range(params.epochs)
        for update in (0, updates - 1)
    ]
    assert found == pytest.approx([0.1] * 200 + [0.01] * 10 + [0.001] * 10)


def test_lars_is_timms() -> None:
    ours, theirs = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2)) for _ in "ab")
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for model in (ours, theirs):
        model(images)
    theirs.load_state_dict(ours.state_dict())
    optimizer = build_optimizer(OptimizerSpec(name="lars", lr=0.3, momentum=0.9, weight_decay=1), ours.parameters())
    groups = [
        {"params": [one for one in theirs.parameters() if (one.dim() > 1) == weights], "weight_decay": decay}
        for weights, decay in ((True, 1.0), (False, 0.0))
    ]
    peer = TimmLars(groups, lr=0.3, momentum=0.9, trust_coeff=1e-3, eps=1e-8)
    for _ in range(4):
        for model, one in ((ours, optimizer), (theirs, peer)):
            one.zero_grad()
            model(images).square().mean().backward()
            one.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_lars_adapts_without_weight_decay_too() -> None:
    weight, bias = nn.Parameter(torch.ones(10, 10)), nn.Parameter(torch.ones(10))
    optimizer = build_optimizer(OptimizerSpec(name="lars", lr=5, weight_decay=0), [weight, bias])
    weight.grad, bias.grad = torch.ones(10, 10), torch.ones(10)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((10, 10), 1 - 5e-3))
    torch.testing.assert_close(bias.detach(), torch.full((10,), -4.0))


def test_lars_goes_on_from_its_state() -> None:
    weight = nn.Parameter(torch.ones(3, 3))
    spec = OptimizerSpec(name="lars", lr=1, weight_decay=0.1)
    optimizer = build_optimizer(spec, [weight])
    weight.grad = torch.ones(3, 3)
    optimizer.step()
    twin = nn.Parameter(weight.detach().clone())
    resumed = build_optimizer(spec, [twin])
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, steps in ((weight, optimizer), (twin, resumed)):
        one.grad = torch.full((3, 3), 0.5)
        steps.step()
    assert torch.equal(weight, twin)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_weight_decay_leaves_biases_alone_where_asked(name: str) -> None:
    def decayed(decay_all: bool) -> list[bool]:
        layer = nn.Linear(2, 2)
        with torch.no_grad():
            layer.bias.fill_(1.0)
        before = [weight.detach().clone() for weight in layer.parameters()]
        spec = OptimizerSpec(name=name, lr=0.1, weight_decay=0.5, decay_all=decay_all)
        optimizer = build_optimizer(spec, layer.parameters())
        for weight in layer.parameters():
            weight.grad = torch.zeros_like(weight)
        optimizer.step()
        return [not torch.equal(old, new) for old, new in zip(before, layer.parameters(), strict=True)]

    assert decayed(True) == [True, True]
    assert decayed(False) == [True, False]
