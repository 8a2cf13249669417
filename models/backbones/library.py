"""Networks of other libraries as backbones: the classifier is taken out, the features that it took come out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.backbones.layout import PublishedLayout
from models.backbones.spec import Backbone, ImageShape


class LibraryBackbone(Backbone):
    """``network`` without its linear layer called ``classifier``; the library's own initialization is kept.

    Files name the weights as the library does. ``unused``: see :class:`PublishedLayout`.
    """

    own_initialization = True

    def __init__(self, network: nn.Module, classifier: str, *, feature_dim: int, unused: tuple[str, ...] = ()) -> None:
        super().__init__()
        network.set_submodule(classifier, nn.Identity())
        self.network = network
        self.feature_dim = feature_dim
        self.published = PublishedLayout(heads=(classifier,), renames=(("", "network."),), unused=unused)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images)
        return features.flatten(1)


def construct(make: Callable[[], nn.Module]) -> nn.Module:
    """``make()`` on the present device; made on the CPU and moved where the constructor computes with tensors.

    A few do (RegNet its widths), and on the meta device, where shapes are checked, tensors have no values.
    """
    try:
        return make()
    except NotImplementedError:
        with torch.device("cpu"):
            network = make()
        return network.to(torch.get_default_device())


def measure(make: Callable[[], LibraryBackbone], *, name: str, image_shape: ImageShape) -> int:
    """Length of the features of images (N, *image_shape), found without memory or arithmetic.

    Raises ValueError, in the library's own words, where the network cannot be made for such images.
    """
    try:
        with torch.device("meta"), torch.no_grad():
            features = make().eval()(torch.empty((2, *image_shape)))
    except Exception as error:  # each network refuses in its own way: assertions, RuntimeError, TypeError, …
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"{name} is no backbone for images of {image_shape}: {reason[0] if reason else type(error).__name__}"
        ) from error
    return int(features.shape[1])
