"""Threat models: the ball that a perturbation δ (N, C, H, W) must stay in, and how to move inside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from models.attacks.noise import Noise
from models.attacks.spec import Norm

_TINY = 1e-30  # keeps a zero gradient or perturbation from dividing by zero


class Threat(Protocol):
    """An eps-ball of one norm."""

    @property
    def eps(self) -> float:
        """Radius, pixels in [0, 1]."""

    def project(self, delta: Tensor) -> Tensor:
        """The point of the ball nearest to ``delta``, image by image."""

    def step(self, gradient: Tensor, size: float) -> Tensor:
        """The move of length ``size`` in the ball's norm that climbs fastest along ``gradient``."""

    def random_start(self, images: Tensor, noise: Noise) -> Tensor:
        """Points of the ball around ``images``, clamped to [0, 1]."""

    def size(self, delta: Tensor) -> Tensor:
        """The norm of each image's perturbation, (N,)."""


@dataclass(frozen=True)
class Linf:
    """Every pixel changes by at most ``eps``."""

    eps: float

    def project(self, delta: Tensor) -> Tensor:
        return delta.clamp(-self.eps, self.eps)

    def step(self, gradient: Tensor, size: float) -> Tensor:
        return size * gradient.sign()

    def random_start(self, images: Tensor, noise: Noise) -> Tensor:
        """Uniform in the ball (Madry et al. 2018)."""
        return (images + self.eps * noise.uniform(images)).clamp(0, 1)

    def size(self, delta: Tensor) -> Tensor:
        return delta.abs().flatten(1).amax(dim=1)


@dataclass(frozen=True)
class L2:
    """The Euclidean norm over all pixels and channels of an image is at most ``eps``."""

    eps: float

    def project(self, delta: Tensor) -> Tensor:
        return delta * (self.eps / self._sizes(delta).clamp_min(_TINY)).clamp_max(1)

    def step(self, gradient: Tensor, size: float) -> Tensor:
        # A confident model's gradient can be so small that its squares vanish in float32: scale it up first.
        largest = gradient.abs().amax(dim=tuple(range(1, gradient.dim())), keepdim=True)
        gradient = gradient / largest.clamp_min(_TINY)
        return size * gradient / self._sizes(gradient).clamp_min(_TINY)

    def random_start(self, images: Tensor, noise: Noise) -> Tensor:
        """A uniformly random direction and a length uniform in [0, eps].

        Uniform in length, not in volume: in thousands of dimensions the latter is always on the sphere.
        """
        direction = noise.normal(images)
        length = noise.uniform(images.new_empty(len(images), *[1] * (images.dim() - 1))).add(1).div(2) * self.eps
        return (images + direction * (length / self._sizes(direction).clamp_min(_TINY))).clamp(0, 1)

    def size(self, delta: Tensor) -> Tensor:
        # Row by row first: in one sum over a large image float32 errs by more than what `within` forgives.
        rows = torch.linalg.vector_norm(delta, dim=-1)
        sizes: Tensor = torch.linalg.vector_norm(rows.flatten(1), dim=1)
        return sizes

    def _sizes(self, delta: Tensor) -> Tensor:
        return self.size(delta).view(-1, *[1] * (delta.dim() - 1))


def within(sizes: Tensor, eps: float) -> Tensor:
    """Whether perturbations of these sizes (N,) lie in a ball of radius ``eps``, up to rounding of float32 pixels."""
    return sizes <= eps * (1 + 1e-6) + 1e-6


_BALLS: dict[Norm, type[Linf] | type[L2]] = {"linf": Linf, "l2": L2}


def threat_model(norm: Norm, eps: float) -> Threat:
    """The ball of ``norm`` and radius ``eps`` (pixels in [0, 1])."""
    return _BALLS[norm](eps)
