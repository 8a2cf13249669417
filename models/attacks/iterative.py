"""The projected gradient loop that training attacks and bounded evaluation attacks share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.attacks.noise import Noise
from models.attacks.spec import SearchParams
from models.attacks.threat import Threat, threat_model
from models.attacks.victim import Objective, Victim


def climb(points: Tensor, gradient: Tensor, *, images: Tensor, threat: Threat, step_size: float) -> Tensor:
    """One step x' ← clamp(x + Π(x' + step(∇) − x), 0, 1) (Madry et al. 2018, §2.1)."""
    delta = points + threat.step(gradient, step_size) - images
    return (images + threat.project(delta)).clamp(0, 1)


def ascend(
    objective: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    threat: Threat,
    steps: int,
    step_size: float,
    noise: Noise,
    random_start: bool = True,
    start: Tensor | None = None,
) -> Tensor:
    """Climb ``objective`` from ``images`` (N, C, H, W) in [0, 1] for ``steps`` steps and return the last iterate.

    ``start`` (N, C, H, W) takes the place of the threat's random start.

    ``objective(x')`` is (N,) or a scalar sum; with a sum over images each image climbs its own term. Weights get no
    gradient; whether they are frozen, and the mode of batch normalization, is the caller's choice.
    """
    images = images.detach()
    points = start
    if points is None:
        points = threat.random_start(images, noise) if random_start else images
    for _ in range(steps):
        with torch.enable_grad():
            points = points.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(objective(points).sum(), points)
        points = climb(points.detach(), gradient, images=images, threat=threat, step_size=step_size)
    return points


def search(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    *,
    loss: Objective,
    params: SearchParams,
    noise: Noise,
    start: Tensor | None = None,
    decay: float | None = None,
) -> Tensor:
    """The steps of :func:`ascend`, but an image leaves with the first iterate that the victim gets wrong.

    An image that survives every restart keeps the last iterate of the last one. An image that is wrong at the start
    comes back as it started. Judging costs next to nothing: a step's gradient comes with logits, and only what they
    call wrong is looked at again. With ``params.verdict == "last"`` nobody leaves before a restart has ended.
    ``start`` (N, C, H, W) takes the place of the first restart's random start; it is moved into the ball.
    ``decay``: follow momentum instead of the gradient: g ← decay·g + ∇/‖∇‖₁ (Dong et al. 2018, eq. 6).
    """
    images = images.detach()
    found = images.clone()
    left = torch.arange(len(images), device=images.device)
    for restart in range(params.restarts):
        x, y = images[left], labels[left]
        begin = start if restart == 0 else None
        points, standing = _one_run(victim, x, y, loss=loss, params=params, noise=noise, start=begin, decay=decay)
        found[left] = points
        if restart + 1 < params.restarts:
            standing = standing[victim.right(points[standing], y[standing])]
            noise, left = noise.select(standing), left[standing]
        if not len(left):
            break
    return found


def _one_run(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    *,
    loss: Objective,
    params: SearchParams,
    noise: Noise,
    start: Tensor | None,
    decay: float | None,
) -> tuple[Tensor, Tensor]:
    """Points of one restart, and the indices of those that no iterate but perhaps the last one broke."""
    threat = threat_model(params.norm, params.eps)
    if start is not None:
        points = (images + threat.project(start - images)).clamp(0, 1)
    else:
        points = threat.random_start(images, noise) if params.random_start else images.clone()
    left = torch.arange(len(images), device=images.device)
    velocity = torch.zeros_like(images) if decay is not None else None
    for _ in range(params.steps):
        current = points[left]
        logits, _, gradient = victim.gradient(current, loss, labels[left])
        if params.verdict == "any":
            standing = ~victim.fooled(current, labels[left], logits=logits)
            left, current, gradient = left[standing], current[standing], gradient[standing]
            if not len(left):
                break
        if velocity is not None and decay is not None:
            velocity[left] = gradient = decay * velocity[left] + _unit(gradient)
        points[left] = climb(current, gradient, images=images[left], threat=threat, step_size=params.step_size)
    return points, left


def _unit(gradient: Tensor) -> Tensor:
    """Each image's gradient divided by the sum of its absolute values; zero stays zero."""
    sizes = gradient.abs().flatten(1).sum(dim=1).clamp_min(1e-30)
    return gradient / sizes.view(-1, *[1] * (gradient.dim() - 1))
