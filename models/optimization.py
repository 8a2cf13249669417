"""Optimizers and the learning rate of every update, from their specs."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from models.lars import Lars
from models.specs import OptimizerSpec, ScheduleSpec


def build_optimizer(spec: OptimizerSpec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer that ``spec`` names; weights of one dimension are biases and those of normalization layers."""
    everything = list(parameters)
    groups = [{"params": everything, "weight_decay": spec.weight_decay}]
    if not spec.decay_all or spec.name == "lars":
        groups = [
            {"params": [one for one in everything if one.dim() > 1], "weight_decay": spec.weight_decay},
            {"params": [one for one in everything if one.dim() <= 1], "weight_decay": 0.0},
        ]
    if spec.name == "lars":
        weights, others = groups
        return Lars([weights, others | {"adapted": False}], lr=spec.lr, momentum=spec.momentum)
    if spec.name == "sgd":
        return torch.optim.SGD(groups, lr=spec.lr, momentum=spec.momentum)
    kind = torch.optim.Adam if spec.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=spec.lr)


def learning_rate(
    step: int, total: int, *, optimizer: OptimizerSpec, schedule: ScheduleSpec, steps_per_epoch: int
) -> float:
    """Learning rate of update ``step`` (from 0) of ``total``: a linear rise, then by the schedule's name.

    The cosine is that of Loshchilov & Hutter 2017 (arXiv 1608.03983, Eq. 5) without restarts; the cyclic one that of
    fast adversarial training (Wong et al. 2020); milestones and the peak are shares of all updates, warm-up included.
    """
    warmup = min(total, round(schedule.warmup_epochs * steps_per_epoch))
    if step < warmup:
        return optimizer.lr * (step + 1) / warmup
    if schedule.name == "constant":
        return optimizer.lr
    share = step / total
    if schedule.name == "step":
        return optimizer.lr * schedule.factor ** sum(share >= milestone for milestone in schedule.milestones)
    if schedule.name == "cyclic":
        # From the middle of each update, so that neither the first nor the last is wasted on a rate of 0.
        at = (step + 0.5) / total
        return optimizer.lr * (at / schedule.peak if at < schedule.peak else (1 - at) / (1 - schedule.peak))
    return optimizer.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Euclidean norm over all gradients, a scalar."""
    return torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
