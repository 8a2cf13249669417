"""Image models built from a card: encoder, classifier, projection head; and the context in which a model is attacked.

Normalization lives inside the models: they take pixels in [0, 1], so that a perturbation's size is one in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.backbones.spec import Backbone, build_backbone
from models.randomness import torch_seeded
from models.specs import ModelCard, ProjectionSpec


class IncompatibleModelError(ValueError):
    """A model does not fit the data or the other model that it should work with; the message says where."""


class ImageModel(nn.Module):
    """A backbone behind its normalization.

    ``mean`` and ``std`` are buffers of shape (1, C, 1, 1) made from the card; they are not part of the weights.
    """

    mean: Tensor
    std: Tensor
    backbone: Backbone

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        channels = card.image_shape[0]
        if len(card.mean) != channels or len(card.std) != channels:
            raise IncompatibleModelError(
                f"the card has {channels} channels but {len(card.mean)} means and {len(card.std)} deviations"
            )
        self.card = card
        self.register_buffer("mean", torch.tensor(card.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(1, -1, 1, 1), persistent=False)
        self.backbone = build_backbone(card.backbone, card.image_shape)

    def features(self, images: Tensor) -> Tensor:
        """Features (N, D) of images (N, C, H, W) with pixels in [0, 1]."""
        features: Tensor = self.backbone((images - self.mean) / self.std)
        return features


class Encoder(ImageModel):
    """Images in [0, 1] → features (N, D)."""

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images)


class Classifier(ImageModel):
    """Images in [0, 1] → logits (N, K) over ``card.classes``, by one linear layer on the features."""

    def __init__(self, card: ModelCard) -> None:
        super().__init__(card)
        if not card.classes:
            raise IncompatibleModelError("a classifier's card must name its classes")
        self.head = nn.Linear(self.backbone.feature_dim, len(card.classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


class ProjectionHead(nn.Module):
    """MLP d → d → … → dim with ReLU between, then scaled to unit length (Chen et al. 2020, arXiv 2002.05709, §2.1).

    Output (N, dim) in float32: cosines divided by a low temperature need it.
    """

    def __init__(self, feature_dim: int, spec: ProjectionSpec) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(spec.layers - 1):
            layers += [nn.Linear(feature_dim, feature_dim), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(feature_dim, spec.dim))

    def forward(self, features: Tensor) -> Tensor:
        return functional.normalize(self.layers(features).float(), dim=1)


def build_model(card: ModelCard, *, seed: int = 0) -> ImageModel:
    """The model that ``card`` describes, with weights drawn from ``seed`` alone.

    Raises :class:`IncompatibleModelError` for a card that contradicts itself, ValueError for a backbone that cannot
    take its images, and :class:`models.registry.UnknownNameError` for an unknown backbone.
    """
    with torch_seeded(seed):
        model = unfilled_model(card)
    if not model.backbone.own_initialization:
        initialize(model, seed=seed)
    elif isinstance(model, Classifier):
        initialize(model.head, seed=seed)
    return model


def unfilled_model(card: ModelCard) -> ImageModel:
    """The model that ``card`` describes, with whatever weights its constructors draw; errors as :func:`build_model`."""
    return Classifier(card) if card.kind == "classifier" else Encoder(card)


@torch.no_grad()
def initialize(module: nn.Module, *, seed: int) -> None:
    """Draw the weights anew from ``seed``: He normal (fan out) for convolutions, torch's own uniform for linear layers.

    No global random state is looked at, so a build is repeatable whatever ran before it.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)


def copy_backbone(source: ImageModel, target: ImageModel) -> None:
    """Copy weights and normalization statistics of ``source``'s backbone into ``target``'s.

    Raises :class:`IncompatibleModelError` if the two backbones are not of one architecture.
    """
    theirs, ours = source.backbone.state_dict(), target.backbone.state_dict()
    if {key: value.shape for key, value in theirs.items()} != {key: value.shape for key, value in ours.items()}:
        raise IncompatibleModelError(
            f"the backbone {source.card.backbone.model_dump()} for {source.card.image_shape[0]} channels does not fit "
            f"{target.card.backbone.model_dump()} for {target.card.image_shape[0]} channels"
        )
    target.backbone.load_state_dict(theirs)


BatchNormMode = Literal["eval", "train"]


@contextmanager
def frozen(model: nn.Module, *, bn_mode: BatchNormMode = "eval") -> Iterator[None]:
    """Hold ``model`` still while its inputs are attacked; restore it exactly afterwards, also after an exception.

    Inside, no parameter asks for a gradient and every layer is in eval mode. With ``bn_mode="train"`` batch
    normalization uses the batch's own statistics, and its running ones stay untouched all the same.
    """
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    tracking = [(norm, norm.track_running_stats) for norm in norms]
    try:
        model.eval()
        model.requires_grad_(False)
        if bn_mode == "train":
            for norm in norms:
                norm.training = True
                norm.track_running_stats = False
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in wanted:
            parameter.requires_grad_(requires_grad)
        for norm, tracks in tracking:
            norm.track_running_stats = tracks
