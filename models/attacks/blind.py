"""Random perturbations as attacks: they know nothing of the model, and a defence must not fall to them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.attacks.noise import Noise
from models.attacks.victim import Victim

Sample = Callable[[Tensor, Noise], Tensor]
"""(images, their noise) → one perturbed copy of each, clamped to [0, 1]."""


def first_that_fools(
    victim: Victim, images: Tensor, labels: Tensor, *, sample: Sample, draws: int, noise: Noise
) -> Tensor:
    """The first of ``draws`` perturbed copies of each image (N, C, H, W) that the victim gets wrong, else the last."""
    images = images.detach()
    found = images.clone()
    left = torch.arange(len(images), device=images.device)
    for draw in range(draws):
        found[left] = sample(images[left], noise)
        if draw + 1 < draws:
            standing = victim.right(found[left], labels[left])
            noise, left = noise.select(standing), left[standing]
        if not len(left):
            break
    return found
