"""The shape of a backbone and of its registry entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from models.registry import Registry
from models.specs import BackboneSpec


class Backbone(nn.Module):
    """Maps normalized images (N, C, H, W) to features (N, ``feature_dim``)."""

    feature_dim: int

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define forward")


@dataclass(frozen=True)
class BackboneEntry:
    """A registered backbone.

    ``build(spec, in_channels)`` makes the network for images of ``in_channels`` channels; ``blocks`` are the
    residual blocks a stage that ``spec.blocks = None`` stands for.
    """

    name: str
    title: str
    blocks: tuple[int, ...]
    build: Callable[[BackboneSpec, int], Backbone]
    source: str


BACKBONES: Registry[BackboneEntry] = Registry("backbone", package="models.backbones")
