"""Batch normalization folded into the convolutions before it, for passes in which nothing is trained."""

from __future__ import annotations

import copy
import logging

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

log = logging.getLogger(__name__)


def folded(model: nn.Module) -> nn.Module:
    """A copy of ``model`` (in evaluation mode, frozen) that computes the same, up to rounding, with fewer layers.

    A model whose forward pass cannot be traced comes back unfolded: slower, not different.
    """
    try:
        fast: nn.Module = fuse(model)
    except Exception as error:  # tracing runs the model's own code, which may raise anything at all
        log.info("batch normalization is not folded, the model cannot be traced: %s", error)
        fast = copy.deepcopy(model)
    return fast.eval().requires_grad_(False).to(memory_format=torch.channels_last)
