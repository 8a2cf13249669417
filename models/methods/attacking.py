"""What the methods' own attacks share: a model that is held still, and a training attack that climbs what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from models.attacks.folding import lightened
from models.attacks.iterative import ascend
from models.attacks.noise import BatchNoise
from models.attacks.threat import threat_model
from models.methods.spec import TrainingAttack
from models.networks import frozen


@contextmanager
def under_attack(model: nn.Module) -> Iterator[None]:
    """``model`` :func:`frozen`, and its batch normalization folded into convolutions: answers up to rounding."""
    with frozen(model), lightened(model):
        yield


def climbing(
    objective: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    attack: TrainingAttack,
    generator: torch.Generator,
    parts: int = 1,
) -> Tensor:
    """The last iterate of ``attack`` on images (N, C, H, W) in [0, 1]; ``objective`` as in :func:`ascend`.

    ``parts``: how many views of the batch the images are, one after another.
    """
    return ascend(
        objective,
        images,
        threat=threat_model(attack.norm, attack.eps),
        steps=attack.steps,
        step_size=attack.step_size,
        noise=BatchNoise(generator, parts=parts),
        random_start=attack.random_start,
    )
