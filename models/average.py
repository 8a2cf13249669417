"""A model that follows another one's weights slowly."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average(nn.Module):
    """Moving average of a model's weights, and its normalization statistics as they are (Tarvainen & Valpola 2017)."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        super().__init__()
        self._model = [model]  # in a list: it is no part of this module
        follow = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._average = AveragedModel(model, multi_avg_fn=follow)

    @property
    def model(self) -> nn.Module:
        return self._average.module

    def follow(self) -> None:
        """After every update."""
        (model,) = self._model
        self._average.update_parameters(model)  # and its buffers, as they are
