"""Classifiers of torchvision, of random weights: nothing is downloaded."""

from __future__ import annotations

import functools
import warnings

from torch import nn

from models.backbones.library import LibraryBackbone, construct, measure
from models.backbones.spec import FAMILIES, BackboneFamily, ImageShape


def _names() -> list[str]:
    import torchvision.models  # slow to import, and most services never need it

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names


def _make(name: str, *, feature_dim: int = 1) -> LibraryBackbone:
    import torchvision.models

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # on the initialization of two Inception networks
        network = construct(lambda: torchvision.models.get_model(name, weights=None))
    unused = _drop_auxiliary_classifiers(network)
    linear = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError("it does not end in a linear layer")
    return LibraryBackbone(network, linear[-1], feature_dim=feature_dim, unused=unused)


def _drop_auxiliary_classifiers(network: nn.Module) -> tuple[str, ...]:
    """Take out the side classifiers of Inception networks, which training alone uses; answers their prefixes."""
    if not getattr(network, "aux_logits", False):
        return ()
    names = [name for name, _ in network.named_children() if name.lower().startswith("aux")]
    for name in names:
        setattr(network, name, None)
    network.aux_logits = False  # type: ignore[assignment]  # a plain attribute of both networks
    return tuple(f"{name}." for name in names)


@functools.cache
def _feature_dim(name: str, image_shape: ImageShape) -> int:
    return measure(lambda: _make(name), name=f"torchvision/{name}", image_shape=image_shape)


def _build(name: str, image_shape: ImageShape) -> LibraryBackbone:
    return _make(name, feature_dim=_feature_dim(name, image_shape))


FAMILIES.add(
    "torchvision",
    BackboneFamily(
        name="torchvision",
        title="classifiers of torchvision.models",
        names=_names,
        build=_build,
        source="github.com/pytorch/vision",
    ),
)
