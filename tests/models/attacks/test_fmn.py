"""FMN against foolbox's and against a plain loop over single images, and its own promises."""

from __future__ import annotations

import math

import foolbox
import pytest
import torch
from torch import Tensor, nn

from models.attacks.fmn import FMNParams, run
from models.attacks.noise import PerImageNoise
from models.attacks.objectives import is_right
from models.attacks.threat import threat_model
from models.attacks.victim import Tuning, Victim
from tests.models.attacks.parity import watched

COUNT = 50
FAST = Tuning(folded=True, precision="bfloat16")


def attack(victim: Victim, images: Tensor, labels: Tensor, **params) -> Tensor:
    return run(victim, images, labels, FMNParams(**params), noise=PerImageNoise(torch.arange(len(images))))


def sizes(points: Tensor, images: Tensor, norm: str) -> Tensor:
    return threat_model(norm, 0).size((points - images).double())


def plain(
    model: nn.Module, x: Tensor, label: int, *, norm: str, steps: int, step_size: float = 1.0
) -> tuple[list[Tensor], float]:
    """Algorithm 1 of the paper for one image: the points it looks at, and the smallest norm found, infinite if none."""
    length = {"l2": torch.linalg.vector_norm, "linf": lambda delta: delta.abs().max()}[norm]
    dual = {"l2": torch.linalg.vector_norm, "linf": lambda gradient: gradient.abs().sum()}[norm]
    farthest = float(length(torch.maximum(x, 1 - x)))
    delta, radius, best, path = torch.zeros_like(x), math.inf, math.inf, []
    for step in range(steps):
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        alpha, gamma = step_size * (0.01 + 0.99 * cosine), 0.001 + 0.049 * cosine
        point = (x + delta).requires_grad_(True)
        path.append(point.detach())
        logits = model(point[None])[0]
        others = torch.cat([logits[:label], logits[label + 1 :]])
        lead = others.max() - logits[label]
        (gradient,) = torch.autograd.grad(lead, point)
        lead, size = lead.item(), float(length(delta))
        if lead >= 0:
            best = min(best, size)
            radius = min(radius * (1 - gamma), best)
        elif math.isinf(best):
            radius = size + abs(lead) / float(dual(gradient))
        else:
            radius *= 1 + gamma
        radius = min(radius, farthest)
        delta = delta + alpha * gradient / gradient.norm()
        delta = delta.clamp(-radius, radius) if norm == "linf" else delta * min(1.0, radius / float(delta.norm()))
        delta = (x + delta).clamp(0, 1) - x
    return path, best


@pytest.mark.parametrize("step_size", [1.0, 0.1])  # out of the ball each time, and often not
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_it_looks_at_the_points_of_a_plain_loop(victim, norm, step_size):
    # In double precision: many steps along a gradient's direction make a difference of what is rounded differently.
    model, seen = watched(victim.model)
    model.double()
    images, labels = victim.right(16)
    attack(Victim(model), images.double(), labels, norm=norm, steps=40, step_size=step_size)
    ours = torch.stack(seen, dim=1)
    for index, (x, label) in enumerate(zip(images.double(), labels.tolist(), strict=True)):
        path, _ = plain(model, x, label, norm=norm, steps=40, step_size=step_size)
        torch.testing.assert_close(ours[index], torch.stack(path), atol=1e-6, rtol=0)


def test_linf_finds_the_norms_of_foolbox(victim):
    images, labels = victim.right(COUNT)
    ours = attack(Victim(victim.model), images, labels, norm="linf")
    model = foolbox.PyTorchModel(victim.model, bounds=(0, 1), device="cpu")
    theirs, _, success = foolbox.attacks.LInfFMNAttack(steps=100)(model, images, labels, epsilons=None)
    assert success.all() and not is_right(victim.model(ours), labels).any()
    ratio = sizes(ours, images, "linf") / sizes(theirs, images, "linf")
    assert (ratio <= 1.001).float().mean() >= 0.97
    assert ratio.median() >= 0.99


def test_l2_finds_the_norms_of_a_plain_loop_and_every_image_falls(victim):
    # foolbox's projection onto the L2 ball does nothing (its factor is norm / norm), so it cannot be the measure.
    images, labels = victim.right(24)
    ours = attack(Victim(victim.model), images, labels, norm="l2", steps=60)
    assert not is_right(victim.model(ours), labels).any()
    model = victim.model.double()
    try:
        theirs = torch.tensor(
            [plain(model, x.double(), int(y), norm="l2", steps=60)[1] for x, y in zip(images, labels, strict=True)]
        )
    finally:
        model.float()
    found = theirs.isfinite()
    assert found.sum() >= 12
    ratio = sizes(ours, images, "l2")[found] / theirs[found]
    assert (ratio <= 1.01).float().mean() >= 0.9
    assert 0.97 <= ratio.median() <= 1.0001


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_fast_gradients_change_neither_success_nor_norms(victim, norm):
    images, labels = victim.right(COUNT)
    exact = attack(Victim(victim.model), images, labels, norm=norm)
    fast = attack(Victim(victim.model, tuning=FAST, batch_size=16), images, labels, norm=norm)
    assert not is_right(victim.model(fast), labels).any()
    assert fast.min() >= 0 and fast.max() <= 1
    assert sizes(fast, images, norm).median() == pytest.approx(sizes(exact, images, norm).median().item(), rel=0.01)


def test_an_image_does_not_depend_on_its_batch(victim):
    images, labels = victim.right(20)
    together = attack(Victim(victim.model), images, labels, steps=30)
    for index in (0, 11):
        alone = attack(Victim(victim.model), images[index : index + 1], labels[index : index + 1], steps=30)
        assert sizes(alone, images[index : index + 1], "l2").item() == pytest.approx(
            sizes(together, images, "l2")[index].item(), rel=1e-2
        )


def test_a_failure_returns_the_clean_image(victim):
    images, labels = victim.right(10)
    assert torch.equal(attack(Victim(victim.model), images, labels, norm="linf", steps=1, step_size=0.001), images)


def test_a_wrong_image_comes_back_as_it_is(victim):
    images, labels = victim.right(6)
    assert torch.equal(attack(Victim(victim.model), images, (labels + 1) % 10, steps=5), images)


def test_two_classes_and_large_grey_images_will_do():
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(16, 2))
    images = torch.rand(1, 1, 64, 64)
    labels = model(images).argmax(dim=1)
    for norm in ("l2", "linf"):
        points = attack(Victim(model), images, labels, norm=norm)
        assert not is_right(model(points), labels).any()
