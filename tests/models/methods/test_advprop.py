"""AdvProp and its second set of batch normalization."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.methods.advprop import AdvPropLearner
from models.methods.norms import AuxiliaryNorms
from models.methods.spec import TrainingAttack
from models.networks import IncompatibleModelError
from tests.models.methods.setting import (
    EPS,
    IMAGES,
    LABELS,
    anywhere,
    classifier,
    moment,
    norms,
    plain_pgd,
    same,
    seeded,
)


def test_a_network_without_batch_normalization_cannot_have_a_second_set() -> None:
    with pytest.raises(IncompatibleModelError, match="no batch normalization"):
        AuxiliaryNorms(nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)))


def test_auxiliary_norms_answer_as_a_model_that_has_them_would() -> None:
    model = classifier()
    auxiliary = AuxiliaryNorms(model)
    with torch.no_grad():
        for layer in norms(auxiliary):
            layer.weight.mul_(1.5)
            layer.bias.add_(0.1)
    twin = copy.deepcopy(model)
    for own, other in zip(norms(twin), norms(auxiliary), strict=True):
        own.load_state_dict(other.state_dict())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(2):  # in train mode: the statistics move
        ours, theirs = auxiliary(IMAGES), twin(IMAGES)
        torch.testing.assert_close(ours, theirs)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for own, other in zip(norms(twin), norms(auxiliary), strict=True):
        torch.testing.assert_close(own.state_dict(), other.state_dict())
    functional.cross_entropy(ours, LABELS).backward()
    functional.cross_entropy(theirs, LABELS).backward()
    torch.testing.assert_close(norms(auxiliary)[0].weight.grad, norms(twin)[0].weight.grad)
    assert norms(model)[0].weight.grad is None
    torch.testing.assert_close(model.backbone.stem.weight.grad, twin.backbone.stem.weight.grad)
    torch.testing.assert_close(auxiliary.eval()(IMAGES), auxiliary(IMAGES))
    assert len(list(auxiliary.parameters())) == 2 * len(norms(model)), "the model's weights are not counted twice"


def test_the_attack_is_on_the_auxiliary_side() -> None:
    """Beside plain steps, in float64, on a network of its own that has the auxiliary norms."""
    model = classifier(double=True)
    attack = TrainingAttack(eps=EPS, steps=3, step_size=EPS / 4)
    learner = AdvPropLearner(model, same, attack=attack)
    images, second = IMAGES.double(), copy.deepcopy(model)
    with torch.no_grad():  # both norms start as the same ones
        for own, other in zip(norms(second), norms(learner._auxiliary), strict=True):
            other.weight.mul_(1.5)
            other.running_mean.add_(0.2)
            own.load_state_dict(other.state_dict())
    second.eval()
    expected = plain_pgd(
        lambda points: functional.cross_entropy(second(points), LABELS),
        images,
        start=anywhere(images, seeded()),
        steps=3,
    )
    torch.testing.assert_close(learner._perturb(images, LABELS, generator=seeded()), expected)


def test_clean_images_see_the_main_norms_and_attacked_ones_the_auxiliary() -> None:
    model = classifier()
    learner = AdvPropLearner(model, same, attack=TrainingAttack(eps=EPS, steps=3))
    attacked = learner._perturb(IMAGES, LABELS, generator=seeded())
    twin = copy.deepcopy(model)
    second = copy.deepcopy(model)
    for own, other in zip(norms(second), norms(learner.modules["auxiliary"]), strict=True):  # type: ignore[index]
        own.load_state_dict(other.state_dict())
    loss, told = learner.loss(IMAGES, LABELS, moment=moment(), generator=seeded())
    clean = functional.cross_entropy(twin(IMAGES), LABELS)
    adversarial = functional.cross_entropy(second(attacked), LABELS)
    torch.testing.assert_close(loss, clean + adversarial)
    torch.testing.assert_close(told["adversarial_loss"], adversarial.detach())
    assert (attacked - IMAGES).abs().max() <= EPS + 1e-6
    assert learner.published() is model and learner.remarks()[0]["code"] == "no-defence"
    torch.testing.assert_close(norms(model)[0].running_mean, norms(twin)[0].running_mean)
