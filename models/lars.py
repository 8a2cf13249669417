"""LARS: a learning rate of its own for every layer, for large batches (You et al. 2017, arXiv 1708.03888)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

TRUST = 1e-3
_TINY = 1e-8


class Lars(Optimizer):
    """SGD with momentum whose step for layer w is scaled by 0.001·‖w‖ / (‖g‖ + wd·‖w‖) (Algorithm 1).

    Two departures: groups with ``adapted`` false (biases, normalization) take plain steps, as is usual in
    self-supervised learning, and the learning rate stands outside the momentum, as in torch's SGD.
    """

    def __init__(self, parameters: Iterable[Any], *, lr: float, momentum: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "adapted": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # none is used here
        """One update of every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        decay = group["weight_decay"]
        if group["adapted"]:
            size = weight.norm()
            trust = TRUST * size / (gradient.norm() + decay * size + _TINY)
            # A layer of zeros has no size to be trusted.
            gradient = (gradient + decay * weight) * torch.where(size > 0, trust, torch.ones_like(trust))
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        weight.sub_(group["lr"] * velocity)
