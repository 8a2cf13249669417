"""Adversarial weight perturbation: a loss at the weights near the model's own that raise it most."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.distributed import averaged
from models.networks import frozen

Forward = Callable[[Tensor], Tensor]
_TINY = 1e-12


class WorstWeights:
    """Perturbs every layer's weights w by δ along the loss's gradient g: δ = γ ‖w‖ g/‖g‖ (Wu et al. 2020).

    Biases and batch normalization are left alone, as in the authors' code. Nothing of the model changes: a forward
    pass at w + δ leaves gradients at the model's own w, where the optimizer then steps from.
    """

    def __init__(self, model: nn.Module, *, gamma: float) -> None:
        self._model = model
        self._gamma = gamma

    def against(self, objective: Callable[[Forward], Tensor]) -> Forward:
        """The model at the weights near its own where ``objective(forward)``, a scalar, is higher; one ascent step."""
        delta = self._ascent(objective)

        def forward(images: Tensor) -> Tensor:
            moved = {name: weight + delta[name] for name, weight in self._layers().items()}
            answer: Tensor = functional_call(self._model, moved, (images,))
            return answer

        return forward

    def _ascent(self, objective: Callable[[Forward], Tensor]) -> dict[str, Tensor]:
        """δ by name; batch normalization uses the batch's statistics and its running ones stay as they are."""
        with frozen(self._model, bn_mode="train"), torch.enable_grad():
            weights = {name: weight.detach().requires_grad_() for name, weight in self._layers().items()}
            loss = objective(lambda images: functional_call(self._model, weights, (images,)))
            gradients = averaged(torch.autograd.grad(loss, list(weights.values())))
        return {
            name: gradient * (self._gamma * weight.detach().norm() / gradient.norm().clamp_min(_TINY))
            for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
        }

    def _layers(self) -> dict[str, Tensor]:
        return {name: weight for name, weight in self._model.named_parameters() if weight.dim() > 1}
