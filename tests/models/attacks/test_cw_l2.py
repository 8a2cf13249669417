"""CW-L2 against foolbox's per-sample implementation and a plain loop over single images, and its own promises."""

from __future__ import annotations

import math

import foolbox
import pytest
import torch
from torch import Tensor, nn

from models.attacks.cw_l2 import CWL2Params, run
from models.attacks.noise import PerImageNoise
from models.attacks.objectives import is_right, margin
from models.attacks.victim import Victim
from tests.models.attacks.parity import watched

SEARCH = {"steps": 150, "binary_search_steps": 9, "initial_const": 1e-2, "lr": 0.02}
COUNT = 60


def norms(points, images):
    return (points - images).flatten(1).double().norm(dim=1)


def attack(victim, images, labels, **fields):
    params, noise = CWL2Params(**{**SEARCH, **fields}), PerImageNoise(torch.arange(len(images)))
    return run(Victim(victim.model), images, labels, params, noise=noise)


@pytest.fixture(scope="module")
def attacked(victim):
    images, labels = victim.right(COUNT)
    return images, labels, attack(victim, images, labels)


def test_every_image_falls_with_a_norm_as_small_as_foolboxs(victim, attacked):
    images, labels, ours = attacked
    theirs, _, success = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=9, steps=150, stepsize=0.02, initial_const=1e-2, abort_early=False
    )(foolbox.PyTorchModel(victim.model, bounds=(0, 1), device="cpu"), images, labels, epsilons=None)
    assert success.all()
    assert not is_right(victim.model(ours), labels).any()
    assert norms(ours, images).median() <= 1.02 * norms(theirs, images).median()
    assert norms(ours, images).median() >= 0.9 * norms(theirs, images).median(), "smaller than foolbox by far: a flaw"
    assert ours.min() >= 0 and ours.max() <= 1 and ours.dtype == torch.float32


def plain(model: nn.Module, x: Tensor, label: int, *, params: CWL2Params) -> list[Tensor]:
    """The points at which a search for one image looks, with PyTorch's Adam and the gradient of the whole loss."""
    const, lower, upper, path = params.initial_const, 0.0, math.inf, []
    for _ in range(params.binary_search_steps):
        w = torch.atanh((2 * x - 1) * 0.999999).requires_grad_(True)
        adam = torch.optim.Adam([w], lr=params.lr)
        fooled, lowest, checked = False, math.inf, math.inf
        for step in range(params.steps):
            point = (torch.tanh(w) + 1) / 2
            path.append(point.detach())
            logits = model(point[None])[0]
            behind = logits[label] - torch.cat([logits[:label], logits[label + 1 :]]).max()
            loss = (point - x).square().sum() + const * behind.clamp_min(-params.confidence)
            fooled |= behind.item() < 0 and -behind.item() >= params.confidence
            lowest = min(lowest, loss.item())
            if params.abort_early and step % math.ceil(params.steps / 10) == 0:
                if lowest > 0.9999 * checked:
                    break
                checked = lowest
            adam.zero_grad()
            loss.backward()
            adam.step()
        lower, upper = (lower, const) if fooled else (const, upper)
        const = 10 * const if math.isinf(upper) else (lower + upper) / 2
    return path


@pytest.mark.parametrize(
    "fields",
    [{"abort_early": False}, {"abort_early": True}, {"confidence": 1.0}],
    ids=["to the end", "until nothing falls", "with a lead"],
)
def test_it_looks_at_the_points_of_a_plain_loop(victim, fields):
    params = CWL2Params(steps=30, binary_search_steps=6, initial_const=0.1, lr=0.05, **fields)
    images, labels = victim.right(3)
    for x, label in zip(images.double(), labels, strict=True):
        model, seen = watched(victim.model)
        run(Victim(model.double()), x[None], label[None], params, noise=PerImageNoise(torch.zeros(1, dtype=torch.long)))
        ours, path = torch.cat(seen), plain(model, x, int(label), params=params)
        torch.testing.assert_close(ours, torch.stack(path), atol=1e-6, rtol=0)
        assert (len(path) < 6 * 30) == params.abort_early


def test_stopping_an_image_early_hardly_changes_its_norm(victim, attacked):
    images, labels, stopped = attacked
    unstopped = attack(victim, images, labels, abort_early=False)
    ratio = norms(stopped, images) / norms(unstopped, images)
    assert ratio.median() <= 1.01 and (ratio < 1.1).float().mean() > 0.9


def test_images_do_not_influence_each_other(victim, attacked):
    images, labels, together = attacked
    for index in (0, 7, 31):
        alone = attack(victim, images[index : index + 1], labels[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], atol=1e-3, rtol=0)
        assert norms(alone, images[index : index + 1]).item() == pytest.approx(
            norms(together, images)[index].item(), rel=1e-2
        )


def test_confidence_buys_a_lead_with_a_larger_norm(victim, attacked):
    images, labels, plain = attacked
    confident = attack(victim, images, labels, confidence=2.0)
    found = ~is_right(victim.model(confident), labels)
    assert found.float().mean() >= 0.9
    assert margin(victim.model(confident), labels)[found].min() >= 2.0 - 1e-4
    assert norms(confident, images)[found].median() > norms(plain, images).median()


def test_a_failure_returns_the_clean_image(victim):
    images, labels = victim.right(10)
    points = attack(victim, images, labels, steps=1, binary_search_steps=1)
    assert torch.equal(points, images)


def test_the_budget_is_optional():
    assert CWL2Params().radius is None
    assert CWL2Params(eps="128/255").radius == ("l2", 128 / 255)
