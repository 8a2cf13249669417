"""Contrastive losses on unit vectors. All compute in float32 (float64 stays float64): τ 0.1 needs it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.distributed import gathered, rank


class NTXent(nn.Module):
    """Normalized temperature-scaled cross-entropy over the M·N views of N images (Chen et al. 2020, Eq. 1, M = 2).

    ℓ(i, j) = −log( exp(sim(z_i, z_j)/τ) / Σ_{k≠i} exp(sim(z_i, z_k)/τ) ), averaged over all ordered pairs of views of
    one image; all other views are in the sum below. ``temperature`` τ must be positive and finite. Where several
    processes train together, N is the number of all their images, and each gets the loss of the whole batch.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"the temperature must be positive and finite, not {temperature}")
        self.temperature = temperature

    def forward(self, *views: Tensor) -> Tensor:
        """The loss, a scalar, of two or more views (N, D) of unit vectors; row i of each belongs to image i."""
        shapes = {view.shape for view in views}
        if len(views) < 2 or len(shapes) > 1 or views[0].dim() != 2:
            raise ValueError(f"two or more views of one shape (N, D) are needed, not {[tuple(v.shape) for v in views]}")
        views = tuple(gathered(view) for view in views)
        versions, count = len(views), len(views[0])
        every = _wide(torch.cat(views))
        # Autocast would turn this product back into half precision.
        with torch.autocast(every.device.type, enabled=False):
            similarity = every @ every.T / self.temperature
        itself = torch.eye(versions * count, dtype=torch.bool, device=every.device)
        log_p = similarity.masked_fill(itself, float("-inf")).log_softmax(dim=1)
        # [m, n, m', n'] → [m, m', n]: two views of one image; of these, those of two versions.
        same_image = log_p.view(versions, count, versions, count).diagonal(dim1=1, dim2=3)
        others = ~torch.eye(versions, dtype=torch.bool, device=every.device)
        return -same_image[others].mean()


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

    Positive exactly where a perturbed image is nearer to another image than to its own; the others are those of all
    processes.
    """
    own = torch.arange(len(clean), device=clean.device)[:, None] + rank() * len(clean)
    with torch.autocast(clean.device.type, enabled=False):
        similarity = _wide(perturbed) @ _wide(gathered(clean)).T
    others = similarity.scatter(1, own, float("-inf"))
    return others.amax(dim=1) - similarity.gather(1, own).squeeze(1)


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """KL(p ‖ q) of p = softmax(clean) and q = softmax(attacked), logits (N, K): (N,), in float32 or wider.

    It has a gradient with respect to both.
    """
    log_p, log_q = _wide(clean).log_softmax(dim=1), _wide(attacked).log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
