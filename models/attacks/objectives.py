"""What an attack climbs and how it is judged, per image, in float32 or wider."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_TINY = 1e-12  # the authors' guard of the DLR's denominator where the leading logits are equal


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (N, K) against labels (N,): (N,)."""
    return functional.cross_entropy(_wide(logits), labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max_{i≠y} h_i − h_y of logits (N, K): (N,); negative exactly where the label's logit beats every other."""
    logits = _wide(logits)
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return others.max(dim=1).values - own


def cross_entropy_targeted(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """−CE of logits (N, K) against ``targets`` (N,): (N,); climbing it makes the target likely."""
    del labels
    return -cross_entropy(logits, targets)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio (Croce and Hein 2020): (max_{i≠y} h_i − h_y) / (h_π1 − h_π3), (N,).

    π sorts the logits from high to low. Unlike the cross-entropy it keeps its gradient when logits are scaled up.
    Two classes have no third rank, and the ratio to the second would be constant: there it is the margin alone.
    """
    logits = _wide(logits)
    lead = margin(logits, labels)
    if logits.shape[1] == 2:
        return lead
    first, _, third = logits.topk(3, dim=1).values.unbind(1)
    return lead / (first - third + _TINY)


def dlr_targeted(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Targeted DLR (Croce and Hein 2020): (h_t − h_y) / (h_π1 − (h_π3 + h_π4) / 2), (N,).

    With three classes the ranks are the last two there are, (h_π2 + h_π3) / 2: a denominator of the first and the third
    alone would make the ratio constant where t is third. With two it is h_t − h_y alone, as in :func:`dlr`.
    """
    logits = _wide(logits)
    lead = (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)
    if logits.shape[1] == 2:
        return lead
    ranked = logits.topk(min(logits.shape[1], 4), dim=1).values
    return lead / (ranked[:, 0] - ranked[:, -2:].mean(dim=1) + _TINY)


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Boolean (N,): the label alone has the largest logit.

    A tie is not right, whichever class argmax would name: a model that answers the same for every class knows nothing.
    """
    return margin(logits, labels) < 0


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
