"""The attack inside an adversarial training begins where it is told to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.methods.attacking import climbing
from models.methods.spec import TrainingAttack


def level(points: Tensor) -> Tensor:
    """No step leads anywhere: what moved is the start."""
    return (points * 0).sum()


@pytest.mark.parametrize("random_start", [False, True])
def test_it_starts_at_the_image_unless_it_is_to_start_somewhere_in_the_ball(random_start: bool) -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    attack = TrainingAttack(eps=0.1, steps=2, step_size=0.05, random_start=random_start)
    points = climbing(level, images, attack=attack, generator=generator)
    moved = (points - images).abs()
    assert (moved.amax() > 0.05) == random_start and moved.amax() <= 0.1 + 1e-6
    assert torch.equal(generator.get_state(), before) != random_start
