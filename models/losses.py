"""Contrastive losses on unit vectors. All compute in float32 (float64 stays float64): τ 0.1 needs it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class NTXent(nn.Module):
    """Normalized temperature-scaled cross-entropy over the 2N views of N images (Chen et al. 2020, Eq. 1).

    ℓ(i, j) = −log( exp(sim(z_i, z_j)/τ) / Σ_{k≠i} exp(sim(z_i, z_k)/τ) ), averaged over both orders of every pair;
    the negatives of a view are all views of the other images. ``temperature`` τ must be positive and finite.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"the temperature must be positive and finite, not {temperature}")
        self.temperature = temperature

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss, a scalar, of unit vectors (N, D) and (N, D); row i of both belongs to image i."""
        if first.shape != second.shape or first.dim() != 2:
            raise ValueError(f"two views of one shape (N, D) are needed, not {first.shape} and {second.shape}")
        count = len(first)
        views = torch.cat((first, second))
        views = views if views.dtype == torch.float64 else views.float()
        # Autocast would turn this product back into half precision.
        with torch.autocast(views.device.type, enabled=False):
            similarity = views @ views.T / self.temperature
        itself = torch.eye(2 * count, dtype=torch.bool, device=views.device)
        similarity = similarity.masked_fill(itself, float("-inf"))
        partner = torch.arange(2 * count, device=views.device).roll(count)
        return functional.cross_entropy(similarity, partner)


class CLeadLoss(nn.Module):
    """L = ½ [ℓ(x, x_pgd) + ℓ(x, x_cw)] of C-LEAD (arXiv 2510.27249, Eq. 2), ℓ being :class:`NTXent`.

    With another number of perturbed views, the mean over them.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.contrast = NTXent(temperature)

    def forward(self, clean: Tensor, *perturbed: Tensor) -> Tensor:
        """The loss, a scalar, of unit vectors (N, D): of the images and of each perturbed version of them."""
        if not perturbed:
            raise ValueError("at least one perturbed view is needed")
        return torch.stack([self.contrast(clean, view) for view in perturbed]).mean()


def contrastive_margin(perturbed: Tensor, clean: Tensor) -> Tensor:
    """max_{k≠i} sim(z'_i, z_k) − sim(z'_i, z_i) of unit vectors (N, D): (N,); the label-free form of CW's margin.

    Positive exactly where a perturbed image is nearer to another image than to its own.
    """
    with torch.autocast(clean.device.type, enabled=False):
        similarity = perturbed.float() @ clean.float().T
    own = similarity.diagonal()
    itself = torch.eye(len(clean), dtype=torch.bool, device=clean.device)
    return similarity.masked_fill(itself, float("-inf")).amax(dim=1) - own


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """KL(p ‖ q) of p = softmax(clean) and q = softmax(attacked), logits (N, K): (N,), in float32 or wider.

    It has a gradient with respect to both.
    """
    wide = torch.promote_types(clean.dtype, torch.float32)
    log_p, log_q = clean.to(wide).log_softmax(dim=1), attacked.to(wide).log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)
