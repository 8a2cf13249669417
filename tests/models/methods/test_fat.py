"""Friendly adversarial training's attack against a loop over single images."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from models.methods.fat import FATLearner, FATParams
from models.methods.spec import TrainingAttack
from models.networks import Classifier
from tests.models.methods.setting import EPS, IMAGES, classifier, moment, same, seeded

ATTACK = TrainingAttack(eps=EPS, steps=6, step_size=EPS / 3, random_start=False)


def one_by_one(model: Classifier, images: Tensor, labels: Tensor, *, patience: int) -> tuple[Tensor, list[int]]:
    """Algorithm 1 of the paper for each image alone; also how many steps each took."""
    found, taken = [], []
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        point, more, steps = image.clone(), patience, 0
        while steps < ATTACK.steps:
            point.requires_grad_(True)
            logits = model(point)
            if logits.argmax(1) != label:
                if more == 0:
                    break
                more -= 1
            (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, label), point)
            moved = point.detach() + ATTACK.step_size * gradient.sign()
            point = (image + (moved - image).clamp(-EPS, EPS)).clamp(0, 1)
            steps += 1
        found.append(point.detach())
        taken.append(steps)
    return torch.cat(found), taken


@pytest.mark.parametrize("patience", [0, 1, 2])
def test_an_image_stops_as_many_steps_after_it_fell_as_the_epoch_says(patience: int) -> None:
    model = classifier()
    with torch.no_grad():
        labels = model.eval()(IMAGES).argmax(1)
    labels[:4] = (labels[:4] + 1) % 10  # wrong from the start
    expected, taken = one_by_one(model, IMAGES, labels, patience=patience)
    model.train()
    learner = FATLearner(model, same, attack=ATTACK, one_more_step_from=(0.4, 0.8))
    attacked = learner.perturb(IMAGES, labels, moment=moment((0, 400, 999)[patience]), generator=seeded())
    torch.testing.assert_close(attacked, expected)
    assert taken[:4] == [patience] * 4 and max(taken) > patience
    assert model.training


def test_shares_must_ascend() -> None:
    with pytest.raises(ValidationError, match="ascending"):
        FATParams.model_validate({"dataset": {"name": "digits"}, "one_more_step_from": [0.3, 0.2]})
