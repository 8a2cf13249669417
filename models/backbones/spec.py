"""The shape of a backbone, of its registry entry, and of a family of backbones that another library holds."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from models.backbones.layout import PublishedLayout
from models.registry import Registry, UnknownNameError
from models.specs import BackboneSpec

ImageShape = tuple[int, int, int]
"""(channels, height, width)"""


class Backbone(nn.Module):
    """Maps normalized images (N, C, H, W) to features (N, ``feature_dim``).

    ``published`` tells how files of the published implementation name the weights. ``own_initialization``: the
    weights are left as the constructor draws them.
    """

    feature_dim: int
    published: PublishedLayout
    own_initialization: ClassVar[bool] = False

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define forward")


@dataclass(frozen=True)
class BackboneSize:
    """A :class:`BackboneSpec` with every default filled in, and the channels of the images."""

    in_channels: int
    width: int
    blocks: tuple[int, ...]
    stem_stride: int


@dataclass(frozen=True)
class BackboneEntry:
    """A registered backbone; ``width`` and ``blocks`` are what null stands for in a spec of this name."""

    name: str
    title: str
    width: int
    blocks: tuple[int, ...]
    build: Callable[[BackboneSize], Backbone]
    source: str


@dataclass(frozen=True)
class BackboneFamily:
    """The networks of another library, each called ``family/name``.

    ``names()`` lists them and raises :class:`MissingLibraryError` where the library is not installed;
    ``build(name, image_shape)`` makes one without its classifier, and raises ValueError for one that cannot take
    such images.
    """

    name: str
    title: str
    names: Callable[[], list[str]]
    build: Callable[[str, ImageShape], Backbone]
    source: str


class MissingLibraryError(UnknownNameError):
    """The library of a family is not installed; the message says how to install it."""


BACKBONES: Registry[BackboneEntry] = Registry("backbone", package="models.backbones")
FAMILIES: Registry[BackboneFamily] = Registry("family of backbones", package="models.backbones")


def complete(spec: BackboneSpec) -> BackboneSpec:
    """``spec`` with the width and blocks that null stands for; one of a family as it is.

    Raises :class:`models.registry.UnknownNameError`.
    """
    if "/" in spec.name:
        return spec
    entry = _entry(spec.name)
    return spec.model_copy(update={"width": spec.width or entry.width, "blocks": spec.blocks or entry.blocks})


def build_backbone(spec: BackboneSpec, image_shape: ImageShape) -> Backbone:
    """The network that ``spec`` names, for images of this shape.

    Raises :class:`models.registry.UnknownNameError`, and ValueError for a network that cannot take such images.
    """
    family, _, name = spec.name.partition("/")
    if name or "/" in spec.name:
        return _build_of_family(FAMILIES[family], name, spec=spec, image_shape=image_shape)
    entry = _entry(spec.name)
    size = BackboneSize(image_shape[0], spec.width or entry.width, spec.blocks or entry.blocks, spec.stem_stride)
    return entry.build(size)


def _entry(name: str) -> BackboneEntry:
    if name not in BACKBONES:
        families = ", ".join(f"{family}/…" for family in FAMILIES)
        raise UnknownNameError(f"unknown backbone {name!r}; known: {', '.join(BACKBONES)}, {families}")
    return BACKBONES[name]


def _build_of_family(family: BackboneFamily, name: str, *, spec: BackboneSpec, image_shape: ImageShape) -> Backbone:
    names = family.names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {', '.join(f'{family.name}/{one}' for one in close)}?" if close else ""
        raise UnknownNameError(
            f"{family.name} has no classifier {name!r}; {hint or f'GET /backbones/{family.name} lists what it has'}"
        )
    if spec.width is not None or spec.blocks is not None or spec.stem_stride != 1:
        raise ValueError(f"the size of {spec.name} is fixed; leave width, blocks and stem_stride out")
    return family.build(name, image_shape)
