"""A second set of batch normalization beside a model's own, for images of another distribution (AdvProp, ACL)."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.func import functional_call

from models.networks import IncompatibleModelError


class AuxiliaryNorms(nn.Module):
    """Copies of a model's batch-normalization layers: scale, shift and running statistics of their own.

    The model itself is not changed, so what is deployed is the plain network with its own norms. Weights of all other
    layers are shared (Xie et al. 2020, arXiv 1911.09665, Fig. 3). A model without such layers raises
    :class:`models.networks.IncompatibleModelError`: both kinds of images would share all of it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        found = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)}
        if not found:
            raise IncompatibleModelError(
                "the backbone has no batch normalization, of which this method needs a second set"
            )
        self._names = tuple(found)
        self.layers = nn.ModuleList(copy.deepcopy(layer) for layer in found.values())
        self._model = [model]  # in a list: it is no part of this module

    def forward(self, images: Tensor) -> Tensor:
        """The model's answer for ``images`` (N, C, H, W) by these norms; in its train mode they keep the statistics."""
        (model,) = self._model
        answer: Tensor = functional_call(model, self._substitutes(), (images,))
        return answer

    def _substitutes(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": tensor
            for name, layer in zip(self._names, self.layers, strict=True)
            for key, tensor in (*layer.named_parameters(), *layer.named_buffers())
        }
