"""Attacks run one after the other, each on the images that those before it left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from models.attacks.noise import Noise
from models.attacks.spec import ATTACKS, AttackParams
from models.attacks.threat import threat_model, within
from models.attacks.victim import Victim

OnPart = Callable[[AttackParams, Tensor, float], None]
"""(params of the part, images that it broke: boolean (N,), its seconds)."""


def run_parts(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    parts: Iterable[AttackParams],
    *,
    noise: Noise,
    on_part: OnPart,
) -> Tensor:
    """Attack (N, C, H, W) with each of ``parts``; an image leaves with the first point that breaks it.

    Broken: wrong in float32 and inside the ball of the part. An image that is wrong as it is stays as it is, broken by
    no part. A survivor comes back as its last point inside a ball. ``on_part`` is called after every part, also where
    nothing was left to attack. Each part draws its own random numbers, whatever ran before it.
    """
    found = images.detach().clone()
    standing = victim.right(found, labels)
    for params in parts:
        started = time.perf_counter()
        broken = torch.zeros_like(standing)
        left = standing.nonzero().squeeze(1)
        if len(left):
            clean = images[left]
            own_noise = noise.select(left).branch(params.name)
            points = ATTACKS[params.name].run(victim, clean, labels[left], params, noise=own_noise)
            inside = _inside(points - clean, params)
            found[left[inside]] = points[inside]
            broken[left] = inside & ~victim.right(points, labels[left])
        standing &= ~broken
        on_part(params, broken, time.perf_counter() - started)
    return found


def _inside(delta: Tensor, params: AttackParams) -> Tensor:
    """Boolean (N,): the perturbation fits the ball up to rounding; always where there is none."""
    if params.radius is None:
        return torch.ones(len(delta), dtype=torch.bool, device=delta.device)
    norm, eps = params.radius
    return within(threat_model(norm, eps).size(delta), eps)
