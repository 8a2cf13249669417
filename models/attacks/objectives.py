"""What an attack climbs and how it is judged, per image, in float32 or wider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (N, K) against labels (N,): (N,)."""
    return functional.cross_entropy(_wide(logits), labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{i≠y} h_i − h_y of logits (N, K): (N,); negative exactly where the label's logit beats every other."""
    logits = _wide(logits)
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.max(dim=1).values - own


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Boolean (N,): the label alone has the largest logit.

    A tie is not right, whichever class argmax would name: a model that answers the same for every class knows nothing.
    """
    return margin(logits, labels) < 0


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@contextmanager
def held_fixed(model: object) -> Iterator[None]:
    """Evaluation mode and frozen weights for the time of an attack; a plain function is taken as it is."""
    from models.networks import frozen

    if isinstance(model, nn.Module):
        with frozen(model):
            yield
    else:
        yield
