"""The projected gradient loop that training attacks and bounded evaluation attacks share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.attacks.noise import Noise
from models.attacks.objectives import held_fixed, is_right
from models.attacks.spec import IterativeParams
from models.attacks.threat import Threat, threat_model


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
) -> Tensor:
    """Climb ``objective`` from ``images`` (N, C, H, W) in [0, 1] for ``steps`` steps and return the last iterate.

    ``objective(x')`` is (N,) or a scalar sum; with a sum over images each image climbs its own term. Weights get no
    gradient; whether they are frozen, and the mode of batch normalization, is the caller's choice.
    """
    images = images.detach()
    points = threat.random_start(images, noise) if random_start else images
    for _ in range(steps):
        with torch.enable_grad():
            points = points.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(objective(points).sum(), points)
        points = climb(points.detach(), gradient, images=images, threat=threat, step_size=step_size)
    return points


Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (N, K), labels (N,)) → (N,), to be climbed."""


def search(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    loss: Loss,
    params: IterativeParams,
    noise: Noise,
) -> Tensor:
    """The steps of :func:`ascend`, but an image leaves the batch with the first iterate that the model gets wrong.

    An image that survives every restart keeps the last iterate of the last one. An image that is wrong at the start
    comes back as it started. Judging costs nothing: the logits are those that the gradient needs anyway.
    """
    images = images.detach()
    found = images.clone()
    left = torch.arange(len(images), device=images.device)
    with held_fixed(model):
        for restart in range(params.restarts):
            x, y = images[left], labels[left]
            points, standing = _one_run(model, x, y, loss=loss, params=params, noise=noise)
            found[left] = points
            if restart + 1 < params.restarts:
                standing = standing[_standing(model, points[standing], y[standing])]
                noise, left = noise.select(standing), left[standing]
            if not len(left):
                break
    return found


def _one_run(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    loss: Loss,
    params: IterativeParams,
    noise: Noise,
) -> tuple[Tensor, Tensor]:
    """Points of one restart, and the indices of those that no iterate but perhaps the last one broke."""
    threat = threat_model(params.norm, params.eps)
    points = threat.random_start(images, noise) if params.random_start else images.clone()
    left = torch.arange(len(images), device=images.device)
    for _ in range(params.steps):
        with torch.enable_grad():
            current = points[left].requires_grad_(True)
            logits = model(current)
            (gradient,) = torch.autograd.grad(loss(logits, labels[left]).sum(), current)
        right = is_right(logits.detach(), labels[left])
        current = current.detach()[right]
        left = left[right]
        if not len(left):
            break
        points[left] = climb(current, gradient[right], images=images[left], threat=threat, step_size=params.step_size)
    return points, left


def _standing(model: Callable[[Tensor], Tensor], points: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return is_right(model(points), labels)
