"""Signs in a small sample of images that an evaluation's numbers should not be believed.

Counting only, and nothing but sums, so that the counts of shards add up. What the counts mean is decided in
:mod:`models.evaluation_warnings`. The signs of masked gradients are those of Athalye, Carlini and Wagner (2018, §3.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.attacks.iterative import climb, search
from models.attacks.noise import Noise, derive_seed
from models.attacks.objectives import cross_entropy, is_right, margin
from models.attacks.pgd import PGDParams
from models.attacks.spec import Norm
from models.attacks.threat import Linf
from models.attacks.victim import Victim
from models.evaluation_spec import EvaluationParams

SAMPLE = 100
SWEEP = ("half", "asked", "double")  # FGSM's radii: the first linf ball's, and half and twice as much
_FACTORS = (0.5, 1.0, 2.0)
_GREY = 0.5
_MOSTLY = 0.95  # share of a gradient's pixels; a strided first layer leaves at most 3 in 4 without one
_ROUNDING = 1e-4  # of the largest logit: float32 sums in another order differ by some 1e-6


def is_examined(ids: Tensor, *, total: int, seed: int) -> Tensor:
    """Which of the images at the positions ``ids`` belong to the sample, boolean; the same ones for any model."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "health"))
    return torch.isin(ids, torch.randperm(total, generator=generator)[:SAMPLE])


def examine(
    victim: Victim, pixels: Tensor, labels: Tensor, *, params: EvaluationParams, noise: Noise
) -> dict[str, float]:
    """Counts over the sample's images (N, C, H, W), which the model gets right; they add up over shards.

    ``images``: N. ``zero_gradients``: the gradient of cross-entropy and margin is zero at (nearly) every pixel.
    ``saturated``: that of the cross-entropy alone. ``unstable``: two forward passes differ. ``probabilities``: the
    "logits" are a distribution. ``huge_survivors``: PGD in :func:`huge_ball` did not break them though plain grey,
    which lies in it, does. ``sweep_half``, ``sweep_asked``, ``sweep_double``: still right after FGSM at half, once and
    twice :func:`sweep_eps`. Everything in float32.
    """
    if not len(pixels):
        return {"images": 0}
    victim = victim.exact()
    logits, _, gradient = victim.gradient(pixels, cross_entropy, labels)
    return {
        "images": len(pixels),
        **_gradient_counts(victim, pixels, labels, gradient=gradient),
        "unstable": int(_unstable(logits, victim.logits(pixels), labels=labels).sum()),
        "probabilities": int(_is_distribution(logits).sum()),
        "huge_survivors": _huge_survivors(victim, pixels, labels, params=params, noise=noise),
        **_sweep(victim, pixels, labels, gradient=gradient, eps=sweep_eps(params)),
    }


def sweep_eps(params: EvaluationParams) -> float | None:
    """Radius of the first linf ball that was asked for; None without one."""
    radii = [attack.radius for attack in params.attacks if attack.radius is not None]
    return next((eps for norm, eps in radii if norm == "linf" and eps > 0), None)


def huge_ball(params: EvaluationParams, shape: tuple[int, ...]) -> tuple[Norm, float]:
    """The ball, in the norm of the first one asked for, that reaches plain grey from any image of ``shape`` (C, H, W).

    No model can tell the classes of its images apart in there, so an attack that fails in it does not work.
    """
    norms = [attack.radius[0] for attack in params.attacks if attack.radius is not None]
    if norms and norms[0] == "l2":
        return "l2", min(_GREY * math.sqrt(math.prod(shape)), 1_000)
    return "linf", _GREY


def _gradient_counts(victim: Victim, pixels: Tensor, labels: Tensor, *, gradient: Tensor) -> dict[str, float]:
    # Only where the softmax of a very sure model can have underflowed: the margin has no softmax.
    suspects = _vanishes(gradient).nonzero().squeeze(1)
    if not len(suspects):
        return {"zero_gradients": 0, "saturated": 0}
    without_softmax = victim.gradient(pixels[suspects], margin, labels[suspects]).gradient
    masked = int(_vanishes(without_softmax).sum())
    return {"zero_gradients": masked, "saturated": len(suspects) - masked}


def _vanishes(gradient: Tensor) -> Tensor:
    """NaN and infinity show no way up either: an attack stands still there."""
    return (~gradient.isfinite() | (gradient == 0)).flatten(1).double().mean(dim=1) >= _MOSTLY


def _unstable(first: Tensor, second: Tensor, *, labels: Tensor) -> Tensor:
    largest = torch.maximum(first.abs(), second.abs()).amax(dim=1)
    differs = (first - second).abs().amax(dim=1) > _ROUNDING * largest
    return differs | (is_right(first, labels) != is_right(second, labels))


def _is_distribution(logits: Tensor) -> Tensor:
    inside = ((logits >= 0) & (logits <= 1)).all(dim=1)
    return inside & ((logits.double().sum(dim=1) - 1).abs() < _ROUNDING)


def _huge_survivors(victim: Victim, pixels: Tensor, labels: Tensor, *, params: EvaluationParams, noise: Noise) -> int:
    breakable = (~victim.right(torch.full_like(pixels, _GREY), labels)).nonzero().squeeze(1)
    if not len(breakable):
        return 0
    norm, eps = huge_ball(params, tuple(pixels.shape[1:]))
    x, y, attack = pixels[breakable], labels[breakable], PGDParams(norm=norm, eps=eps)
    points = search(victim, x, y, loss=cross_entropy, params=attack, noise=noise.select(breakable))
    return int(victim.right(points, y).sum())


def _sweep(victim: Victim, pixels: Tensor, labels: Tensor, *, gradient: Tensor, eps: float | None) -> dict[str, float]:
    if eps is None:
        return {}
    counts: dict[str, float] = {}
    for name, factor in zip(SWEEP, _FACTORS, strict=True):
        radius = min(factor * eps, 1)
        points = climb(pixels, gradient, images=pixels, threat=Linf(radius), step_size=radius)
        counts[f"sweep_{name}"] = int(victim.right(points, labels).sum())
    return counts
