"""Batches larger than fit: a network's pass in pieces, whose inner values are computed anew when they are asked for.

This is gradient caching (Gao et al. 2021, arXiv 2101.06983): the loss sees the whole batch's outputs, and their
gradients go back through one piece after the other. torch's activation checkpointing does it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def in_chunks(
    network: Callable[[Tensor], Tensor], views: Sequence[Tensor], *, chunk_size: int | None, norms: nn.Module
) -> Tensor:
    """Outputs (M·N, D) of M views (N, C, H, W), in passes of at most ``chunk_size`` images, or of the views of
    one image where those are more, and of two images at least; None: in one.

    A pass has all views of its images, so that batch normalization, which takes its statistics from one pass, mixes
    them as it does without chunks. Running statistics in ``norms`` follow once for each.
    """
    count = 1 if chunk_size is None else math.ceil(len(views[0]) / max(1, chunk_size // len(views)))
    count = min(count, len(views[0]) * len(views) // 2)  # of one image there are no statistics
    if count <= 1:
        return network(torch.cat(tuple(views)))
    passes = [
        checkpoint(
            network,
            torch.cat(piece),
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _statistics_kept(norms)),
        ).chunk(len(views))
        for piece in zip(*(view.tensor_split(count) for view in views), strict=True)
    ]
    return torch.cat([torch.cat(outputs) for outputs in zip(*passes, strict=True)])


@contextmanager
def _statistics_kept(norms: nn.Module) -> Iterator[None]:
    """For the pass that is made again: it has been counted."""
    layers = [layer for layer in norms.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    held = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    counts = [None if count is None else count.clone() for _, count in held]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, (momentum, count), before in zip(layers, held, counts, strict=True):
            layer.momentum = momentum
            if count is not None and before is not None:
                count.copy_(before)
