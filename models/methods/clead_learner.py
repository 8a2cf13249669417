"""One C-LEAD step: perturb, embed everything in one forward pass, contrast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.attacks.iterative import ascend
from models.attacks.noise import BatchNoise, derive_seed
from models.attacks.threat import threat_model
from models.losses import CLeadLoss, contrastive_margin
from models.methods.attacking import under_attack
from models.methods.chunks import in_chunks
from models.methods.fading import Fading
from models.methods.spec import Augment, TrainingAttack
from models.methods.supervised import OBJECTIVES
from models.networks import Classifier, ImageModel, IncompatibleModelError, ProjectionHead, frozen, initialize
from models.progress import Moment
from models.specs import ProjectionSpec
from models.stopwatch import Stopwatch

Objective = Callable[[Tensor], Tensor]
"""Perturbed images (N, C, H, W) → what they climb, a scalar sum or (N,)."""


class CLeadLearner:
    """Minimizes :class:`CLeadLoss` over an encoder and its projection head.

    ``guide`` "contrastive" needs no ``base``; "pseudo-label-online" trains a linear head on the base's pseudo-labels
    beside the encoder (its gradient stops at the features); "pseudo-label-base" attacks the base itself.
    """

    def __init__(
        self,
        encoder: ImageModel,
        augment: Augment,
        *,
        views: Sequence[TrainingAttack],
        views_in_turn: bool,
        temperature: float,
        projection: ProjectionSpec,
        guide: Literal["contrastive", "pseudo-label-online", "pseudo-label-base"],
        crops: Literal[1, 2],
        chunk_size: int | None,
        fading: Fading | None,
        base: ImageModel | None,
        seed: int,
    ) -> None:
        self.attack_time = Stopwatch()
        self._encoder = encoder
        self._augment = augment
        self._views = views
        self._views_in_turn = views_in_turn
        self._criterion = CLeadLoss(temperature)
        self._crops = crops
        self._chunk_size = chunk_size
        self._fading = fading
        self._projection = ProjectionHead(encoder.backbone.feature_dim, projection)
        initialize(self._projection, seed=derive_seed(seed, "projection"))
        trained = nn.ModuleDict({"encoder": encoder, "projection": self._projection})
        self.modules: nn.Module = trained
        self._base = None if guide == "contrastive" else _checked(base, encoder)
        self._online_head: nn.Linear | None = None
        if self._base is not None and guide == "pseudo-label-online":
            self._online_head = nn.Linear(encoder.backbone.feature_dim, self._base.head.out_features)
            initialize(self._online_head, seed=derive_seed(seed, "online head"))
            trained["online_head"] = self._online_head

    def loss(
        self, images: Tensor, labels: Tensor, *, moment: Moment, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`models.methods.spec.Learner`; ``labels`` are not used."""
        augment = self._fading.augmentation(moment) if self._fading else self._augment
        first = augment(images, generator)
        second = augment(images, generator) if self._crops == 2 else first
        return self.contrast(first, second, self._pseudo_labels(images), moment=moment, generator=generator)

    def contrast(
        self, first: Tensor, second: Tensor, pseudo: Tensor | None, *, moment: Moment, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of two crops (N, C, H, W) of each image, and further scalars; ``pseudo`` the base's classes (N,)."""
        with self.attack_time.running(first.device):
            perturbed = self._perturb(first, second, pseudo, views=self._views_at(moment), generator=generator)
        features = self._features(first, *perturbed)
        embedded = self._projection(features).chunk(1 + len(perturbed))
        contrastive = self._criterion(*embedded)
        if self._online_head is None or pseudo is None:
            return contrastive, {}
        logits = self._online_head(features[: len(first)].detach()).float()
        online = functional.cross_entropy(logits, pseudo)
        return contrastive + online, {"contrastive_loss": contrastive.detach(), "online_head_loss": online.detach()}

    def remarks(self) -> list[dict[str, str]]:
        return self._fading.remarks() if self._fading else []

    def published(self) -> ImageModel:
        return self._encoder

    @torch.no_grad()
    def _pseudo_labels(self, images: Tensor) -> Tensor | None:
        """The base model's classes (N,) of the images as they are, or None where none are used."""
        if self._base is None:
            return None
        with frozen(self._base):
            labels: Tensor = self._base(images).argmax(dim=1)
            return labels

    def _views_at(self, moment: Moment) -> Sequence[TrainingAttack]:
        return (self._views[moment.step % len(self._views)],) if self._views_in_turn else self._views

    def _perturb(
        self,
        first: Tensor,
        second: Tensor,
        pseudo: Tensor | None,
        *,
        views: Sequence[TrainingAttack],
        generator: torch.Generator,
    ) -> list[Tensor]:
        """One perturbed version of ``second`` a view, with every model held still."""
        with ExitStack() as still:
            still.enter_context(under_attack(self.modules))
            if self._base is not None:
                still.enter_context(under_attack(self._base))
            objectives = self._contrastive(first) if pseudo is None else self._label_guided(pseudo)
            return [
                ascend(
                    objectives[view.name],
                    second,
                    threat=threat_model(view.norm, view.eps),
                    steps=view.steps,
                    step_size=view.step_size,
                    noise=BatchNoise(generator),
                    random_start=view.random_start,
                )
                for view in views
            ]

    def _contrastive(self, first: Tensor) -> dict[str, Objective]:
        contrast = self._criterion.contrast
        with torch.no_grad():
            anchors = self._embed(first)
        return {
            # Times N: the mean over the batch becomes a sum, so that each image climbs at its own scale.
            "pgd": lambda points: contrast(anchors, self._embed(points)) * len(anchors),
            "cw": lambda points: contrastive_margin(self._embed(points), anchors),
        }

    def _label_guided(self, pseudo: Tensor) -> dict[str, Objective]:
        def climbing(loss: Callable[[Tensor, Tensor], Tensor]) -> Objective:
            return lambda points: loss(self._logits(points), pseudo)

        return {name: climbing(loss) for name, loss in OBJECTIVES.items()}

    def _features(self, *views: Tensor, by: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """All of the first view, then all of the next; they go through batch normalization together.

        ``by`` the encoder, or what takes its place.
        """
        return in_chunks(by or self._encoder.features, views, chunk_size=self._chunk_size, norms=self.modules)

    def _embed(self, images: Tensor) -> Tensor:
        embedded: Tensor = self._projection(self._features(images))
        return embedded

    def _logits(self, images: Tensor) -> Tensor:
        """Of the model whose decision the perturbations cross."""
        if self._online_head is not None:
            logits: Tensor = self._online_head(self._features(images))
            return logits
        assert self._base is not None  # label-guided without an online head is pseudo-label-base
        answer: Tensor = self._base(images)
        return answer


def _checked(base: ImageModel | None, encoder: ImageModel) -> Classifier:
    if not isinstance(base, Classifier):
        raise IncompatibleModelError("pseudo-labels need a classifier as base model")
    if base.card.image_shape[0] != encoder.card.image_shape[0]:
        raise IncompatibleModelError(
            f"the base model takes {base.card.image_shape[0]} channels; the data has {encoder.card.image_shape[0]}"
        )
    return base
