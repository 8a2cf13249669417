"""MI-FGSM against torchattacks and, where both project, a plain loop over single images."""

from __future__ import annotations

import copy

import foolbox
import pytest
import torch
import torchattacks
from torch import Tensor

from models.attacks import mi_fgsm
from models.attacks.noise import PerImageNoise
from models.attacks.objectives import is_right
from models.attacks.threat import threat_model
from models.attacks.victim import Tuning, Victim

EPS, STEPS = 0.1, 8


def attacked(model, images: Tensor, labels: Tensor, **params) -> Tensor:
    noise = PerImageNoise(torch.arange(len(images)))
    victim = model if isinstance(model, Victim) else Victim(model)
    return mi_fgsm.run(victim, images, labels, mi_fgsm.MIFGSMParams(**params), noise=noise)


@pytest.mark.parametrize("decay", [1.0, 0.5, 0.0])
def test_without_leaving_early_it_gives_the_images_of_torchattacks(victim, decay):
    images, labels = victim.right(100)
    theirs = torchattacks.MIFGSM(victim.model, eps=EPS, alpha=EPS / STEPS, steps=STEPS, decay=decay)(images, labels)
    ours = attacked(victim.model, images, labels, eps=EPS, steps=STEPS, decay=decay, verdict="last")
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_it_returns_the_first_wrong_iterate_of_torchattacks_or_its_last(victim):
    images, labels = victim.right(100)
    expected = images.clone()
    pending = torch.ones(100, dtype=torch.bool)
    for steps in range(STEPS + 1):
        theirs = torchattacks.MIFGSM(victim.model, eps=EPS, alpha=EPS / STEPS, steps=steps, decay=1.0)
        expected[pending] = theirs(images, labels)[pending]
        pending &= is_right(victim.model(expected), labels)
    assert 0 < pending.sum() < 100, "the ball must break some images on the way and not all"
    ours = attacked(victim.model, images, labels, eps=EPS, steps=STEPS)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_without_momentum_it_is_foolboxs_iterated_fgsm(victim):
    # foolbox does not normalize the gradient before it adds it up, so only without momentum is it the same attack.
    images, labels = victim.right(60)
    theirs, _, _ = foolbox.attacks.LinfMomentumIterativeFastGradientMethod(
        momentum=0.0, abs_stepsize=EPS / STEPS, steps=STEPS
    )(foolbox.PyTorchModel(victim.model, bounds=(0, 1), device="cpu"), images, labels, epsilons=EPS)
    ours = attacked(victim.model, images, labels, eps=EPS, steps=STEPS, decay=0, verdict="last")
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_in_an_l2_ball_it_follows_a_plain_loop_over_single_images(victim):
    images, labels = victim.right(20)
    params = {"norm": "l2", "eps": 0.8, "steps": STEPS, "step_size": 0.2, "decay": 0.9}
    ours = attacked(victim.model, images, labels, verdict="last", **params)
    model = copy.deepcopy(victim.model).double()
    for index in range(20):
        x, y = images[index].double(), labels[index]
        point, velocity = x.clone(), torch.zeros_like(x)
        for _ in range(STEPS):
            point.requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(model(point[None]), y[None])
            (gradient,) = torch.autograd.grad(loss, point)
            velocity = 0.9 * velocity + gradient / gradient.abs().sum()
            delta = point.detach() + 0.2 * velocity / velocity.norm() - x
            point = (x + delta * min(1.0, 0.8 / float(delta.norm()))).clamp(0, 1)
        torch.testing.assert_close(ours[index].double(), point, atol=1e-5, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_with_fast_gradients_it_stays_in_the_ball_and_breaks_as_many(victim, norm):
    images, labels = victim.right(60)
    eps = {"linf": 0.1, "l2": 0.8}[norm]
    fast = Victim(victim.model, tuning=Tuning(folded=True, precision="bfloat16"), batch_size=16)
    points = attacked(fast, images, labels, norm=norm, eps=eps)
    assert points.min() >= 0 and points.max() <= 1
    assert threat_model(norm, eps).size((points - images).double()).max() <= eps + 1e-6
    exact = attacked(victim.model, images, labels, norm=norm, eps=eps)
    broken = [(~is_right(victim.model(found), labels)).sum() for found in (points, exact)]
    assert 0 < broken[1] < 60 and abs(broken[0] - broken[1]) <= 2


def test_a_zero_gradient_does_not_become_nan():
    images, labels = torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.long)

    def constant(points: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]) + points.sum() * 0 + torch.zeros(len(points), 1)

    for norm in ("linf", "l2"):
        assert torch.equal(attacked(constant, images, labels, norm=norm), images)


def test_defaults_are_the_papers():
    params = mi_fgsm.MIFGSMParams()
    assert (params.steps, params.decay, params.random_start, params.restarts) == (10, 1.0, False, 1)
    assert params.step_size == pytest.approx(8 / 255 / 10)
    assert mi_fgsm.MIFGSMParams(eps="16/255", steps=4).step_size == pytest.approx(4 / 255)
    assert mi_fgsm.MIFGSMParams(norm="l2", eps=1).step_size == pytest.approx(0.1)
    assert mi_fgsm.MIFGSMParams(eps=0).step_size > 0
    assert params.at(16 / 255).step_size == pytest.approx(16 / 255 / 10)
    with pytest.raises(ValueError, match="random_start"):
        mi_fgsm.MIFGSMParams(restarts=2)
    with pytest.raises(ValueError, match="decay"):
        mi_fgsm.MIFGSMParams(decay=-1)
