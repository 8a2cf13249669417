"""Attacks run one after the other, each on the images that those before it left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.attacks.noise import Noise
from models.attacks.spec import ATTACKS, AttackParams
from models.attacks.threat import threat_model, within
from models.attacks.victim import Victim


@dataclass(frozen=True)
class PartEvidence:
    """One part of an ensemble attack: the images that it broke first, boolean (N,) on the CPU, and its seconds."""

    name: str
    broken: Tensor
    seconds: float


@dataclass
class Found:
    """What attacks run one after the other have found so far.

    ``points``, (N, C, H, W): the first point that broke an image, else the last inside a ball, else the clean image.
    ``standing``, boolean (N,): not broken. ``parts``: of the attacks that are through.
    """

    points: Tensor
    standing: Tensor
    parts: list[PartEvidence] = field(default_factory=list)

    @classmethod
    def before(cls, victim: Victim, images: Tensor, labels: Tensor) -> Found:
        """Before the first attack; an image that is wrong as it is stays as it is, broken by no part."""
        return cls(images.detach().clone(), victim.right(images, labels))

    def to(self, device: torch.device) -> Found:
        """The same on ``device``."""
        return Found(self.points.to(device), self.standing.to(device), self.parts)


def run_parts(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    parts: Sequence[AttackParams],
    *,
    noise: Noise,
    found: Found,
    after_part: Callable[[], None] = lambda: None,
) -> Tensor:
    """Attack (N, C, H, W) with each of ``parts`` that is not in ``found`` yet, and note there what becomes of it.

    Broken: wrong in float32 and inside the ball of the part. Returns ``found.points``. ``after_part`` is called after
    every part, also where nothing was left to attack; what it finds in ``found`` is all that a later call needs to go
    on. Each part draws its own random numbers, whatever ran before it.
    """
    for params in parts[len(found.parts) :]:
        started = time.perf_counter()
        broken = torch.zeros_like(found.standing)
        left = found.standing.nonzero().squeeze(1)
        if len(left):
            clean = images[left]
            own_noise = noise.select(left).branch(params.name)
            points = ATTACKS[params.name].run(victim, clean, labels[left], params, noise=own_noise)
            inside = _inside(points - clean, params)
            broken[left] = inside & ~victim.right(points, labels[left])
            victim.forget()  # else what is computed at the end would depend on whether all parts ran in one go
            found.points[left[inside]] = points[inside]
        found.standing &= ~broken
        found.parts.append(PartEvidence(params.name, broken.cpu(), time.perf_counter() - started))
        after_part()
    return found.points


def _inside(delta: Tensor, params: AttackParams) -> Tensor:
    """Boolean (N,): the perturbation fits the ball up to rounding; always where there is none."""
    if params.radius is None:
        return torch.ones(len(delta), dtype=torch.bool, device=delta.device)
    norm, eps = params.radius
    return within(threat_model(norm, eps).size(delta), eps)
