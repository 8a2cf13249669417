"""Batch normalization folded into the convolutions before it, for passes in which nothing is trained."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

log = logging.getLogger(__name__)

_ROUNDING = 1e-3  # of the largest logit: folding moves them by some 1e-6 of it


@torch.no_grad()
def folded(model: nn.Module, sample: Tensor) -> nn.Module:
    """A copy of ``model`` (in evaluation mode, frozen) that computes the same, up to rounding, with fewer layers.

    A model that cannot be traced, or whose trace answers otherwise on ``sample`` (N, C, H, W), because its forward
    pass depends on the data or on chance, comes back as it is: slower, not different.
    """
    try:
        fast: nn.Module = fuse(model).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        expected, found = model(sample), fast(sample)
    except Exception as error:  # tracing runs the model's own code, which may raise anything at all
        log.info("batch normalization is not folded, the model cannot be traced: %s", error)
        return model
    if not bool(((found - expected).abs() <= _ROUNDING * expected.abs().max()).all()):
        log.info("batch normalization is not folded: the traced model answers otherwise")
        return model
    return fast
