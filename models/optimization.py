"""Optimizers and the learning rate of every update, from their specs."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from models.specs import OptimizerSpec, ScheduleSpec


def build_optimizer(spec: OptimizerSpec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam (weight decay as an L2 term in both)."""
    if spec.name == "adam":
        return torch.optim.Adam(parameters, lr=spec.lr, weight_decay=spec.weight_decay)
    return torch.optim.SGD(parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay)


def learning_rate(
    step: int, total: int, *, optimizer: OptimizerSpec, schedule: ScheduleSpec, steps_per_epoch: int
) -> float:
    """Learning rate of update ``step`` (from 0) of ``total``: a linear rise, then half a cosine to 0, or constant.

    The cosine is that of Loshchilov & Hutter 2017 (arXiv 1608.03983, Eq. 5) without restarts.
    """
    warmup = min(total, round(schedule.warmup_epochs * steps_per_epoch))
    if step < warmup:
        return optimizer.lr * (step + 1) / warmup
    if schedule.name == "constant":
        return optimizer.lr
    return optimizer.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Euclidean norm over all gradients, a scalar."""
    return torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
