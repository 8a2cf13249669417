"""Classifiers of timm (PyTorch image models), of random weights: nothing is downloaded."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from models.backbones.library import LibraryBackbone, construct, measure
from models.backbones.spec import FAMILIES, BackboneFamily, ImageShape, MissingLibraryError

CLASSES = 1
"""Classes of the classifier that is taken out again."""
SEVERAL = "it has several classifiers, not one linear layer"


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError:
        raise MissingLibraryError(
            "backbones timm/… need the library timm, which is not installed; in the checkout: pip install -e '.[timm]'"
        ) from None
    return timm


def _names() -> list[str]:
    names: list[str] = _timm().list_models()
    return names


def _make(name: str, image_shape: ImageShape, *, feature_dim: int = 1) -> LibraryBackbone:
    timm = _timm()
    known = timm.get_pretrained_cfg(name)
    # Networks with position embeddings are made for one size of images; the others refuse the argument.
    fixed = known is not None and known.fixed_input_size and known.input_size[1:] != image_shape[1:]
    sized = {"img_size": image_shape[1:]} if fixed else {}
    settings = {"pretrained": False, "num_classes": CLASSES, "in_chans": image_shape[0], **sized}
    network = construct(lambda: timm.create_model(name, **settings))
    _check_patches(network, image_shape)
    return LibraryBackbone(network, _classifier_of(network), feature_dim=feature_dim)


def _classifier_of(network: nn.Module) -> str:
    """Path of the layer that answers the logits: a linear one, or the classifier itself where it is a convolution.

    Raises ValueError where several layers do, whose logits the network averages.
    """
    classifier: nn.Module = network.get_classifier()  # type: ignore[operator]  # every timm classifier has it
    paths: list[str] = [path for path, module in network.named_modules() if module is classifier]
    if not paths:
        raise ValueError(SEVERAL)
    layers = classifier.named_modules(prefix=paths[0])
    last: list[str] = [path for path, layer in layers if isinstance(layer, nn.Linear) and layer.out_features == CLASSES]
    if len(last) > 1:
        raise ValueError(SEVERAL)
    return last[0] if last else paths[0]


def _check_patches(network: nn.Module, image_shape: ImageShape) -> None:
    """A transformer leaves out what is over from its last whole patch, without a word; ValueError."""
    patches = getattr(network, "patch_embed", None)
    if not isinstance(patches, _timm().layers.PatchEmbed):  # others overlap, or pad
        return
    height, width = patches.patch_size
    if image_shape[1] % height or image_shape[2] % width:
        raise ValueError(f"its patches of {height}×{width} pixels do not divide the image")


@functools.cache
def _feature_dim(name: str, image_shape: ImageShape) -> int:
    return measure(lambda: _make(name, image_shape), name=f"timm/{name}", image_shape=image_shape)


def _build(name: str, image_shape: ImageShape) -> LibraryBackbone:
    return _make(name, image_shape, feature_dim=_feature_dim(name, image_shape))


FAMILIES.add(
    "timm",
    BackboneFamily(
        name="timm",
        title="classifiers of timm (PyTorch image models)",
        names=_names,
        build=_build,
        source="Wightman 2019, github.com/huggingface/pytorch-image-models",
    ),
)
