"""DeepFool against foolbox's, and its own promises."""

from __future__ import annotations

import foolbox
import pytest
import torch
from torch import Tensor, nn

from models.attacks.deepfool import DeepFoolParams, run
from models.attacks.noise import PerImageNoise
from models.attacks.objectives import is_right
from models.attacks.threat import threat_model
from models.attacks.victim import Tuning, Victim

COUNT = 80
THEIRS = {"l2": foolbox.attacks.L2DeepFoolAttack, "linf": foolbox.attacks.LinfDeepFoolAttack}
FAST = Tuning(folded=True, precision="bfloat16")


def attack(victim: Victim, images: Tensor, labels: Tensor, **params) -> Tensor:
    return run(victim, images, labels, DeepFoolParams(**params), noise=PerImageNoise(torch.arange(len(images))))


def sizes(points: Tensor, images: Tensor, norm: str) -> Tensor:
    return threat_model(norm, 0).size((points - images).double())


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_it_gives_the_images_of_foolbox(victim, norm):
    images, labels = victim.right(COUNT)
    ours = attack(Victim(victim.model), images, labels, norm=norm)
    model = foolbox.PyTorchModel(victim.model, bounds=(0, 1), device="cpu")
    theirs, _, success = THEIRS[norm](steps=50)(model, images, labels, epsilons=None)
    assert success.all() and not is_right(victim.model(ours), labels).any()
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


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
    together = attack(Victim(victim.model), images, labels)
    for index in (0, 11):
        alone = attack(Victim(victim.model), images[index : index + 1], labels[index : index + 1])
        torch.testing.assert_close(alone[0], together[index], atol=1e-5, rtol=0)


def test_fewer_candidates_look_at_fewer_classes(victim):
    images, labels = victim.right(COUNT)
    two, ten = (attack(Victim(victim.model), images, labels, candidates=count) for count in (2, 10))
    assert not is_right(victim.model(two), labels).any()
    assert sizes(two, images, "l2").mean() > sizes(ten, images, "l2").mean()


def test_a_failure_returns_the_clean_image(victim):
    images, labels = victim.right(10)
    points = attack(Victim(victim.model), images, labels, steps=1, overshoot=0)
    still_right = is_right(victim.model(points), labels)
    assert still_right.any()
    assert torch.equal(points[still_right], images[still_right])
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).requires_grad_(False)
    flat[1].weight.zero_()
    flat[1].bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    assert torch.equal(attack(Victim(flat), images, torch.zeros_like(labels)), images)


def test_a_wrong_image_comes_back_as_it_is(victim):
    images, labels = victim.right(6)
    assert torch.equal(attack(Victim(victim.model), images, (labels + 1) % 10), images)


def test_two_classes_and_large_grey_images_will_do():
    torch.manual_seed(0)
    model = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(16, 2))
    images = torch.rand(1, 1, 64, 64)
    labels = model(images).argmax(dim=1)
    for norm in ("l2", "linf"):
        points = attack(Victim(model), images, labels, norm=norm)
        assert not is_right(model(points), labels).any()
