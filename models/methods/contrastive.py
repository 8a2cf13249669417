"""What contrastive methods share: an encoder with its projection head, two augmented views, and attacks on both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.attacks.noise import derive_seed
from models.losses import NTXent
from models.methods.attacking import climbing
from models.methods.spec import Augment, TrainingAttack
from models.networks import ImageModel, ProjectionHead, frozen, initialize
from models.progress import Moment
from models.specs import SIMCLR, AugmentationSpec, OptimizerSpec, ProjectionSpec, ScheduleSpec, TrainingParams
from models.stopwatch import Stopwatch

Embed = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) → unit vectors (N, D)."""


class ContrastiveAttack(TrainingAttack):
    """Climbs the contrastive loss itself, so no objective is to be chosen."""

    name: Literal["pgd"] = Field("pgd", description="pgd on the contrastive loss")
    steps: int = Field(5, ge=1, le=1_000, description="gradient steps")


class ContrastiveParams(TrainingParams):
    """Defaults as in ACL's and DynACL's experiments on CIFAR: LARS, 1,000 epochs in batches of 512, τ 0.5."""

    epochs: int = Field(1000, ge=1, le=100_000, description="passes over the training images")
    optimizer: OptimizerSpec = OptimizerSpec(name="lars", lr=5.0, weight_decay=1e-6)
    schedule: ScheduleSpec = ScheduleSpec(warmup_epochs=10)
    augmentation: AugmentationSpec = SIMCLR
    temperature: float = Field(0.5, ge=0.001, le=100, description="τ of the contrastive loss")
    projection: ProjectionSpec = ProjectionSpec()


class ContrastiveLearner:
    """Minimizes NT-Xent over two augmented views, which is SimCLR; the methods with attacks override :meth:`contrast`.

    Attacks run with batch normalization in eval mode and weights frozen.
    """

    def __init__(
        self, encoder: ImageModel, augment: Augment, *, temperature: float, projection: ProjectionSpec, seed: int
    ) -> None:
        self.attack_time = Stopwatch()
        self.criterion = NTXent(temperature)
        self._encoder = encoder
        self._augment = augment
        self._projection = ProjectionHead(encoder.backbone.feature_dim, projection)
        initialize(self._projection, seed=derive_seed(seed, "projection"))
        self.modules: nn.Module = nn.ModuleDict({"encoder": encoder, "projection": self._projection})

    def loss(
        self, images: Tensor, labels: Tensor, *, moment: Moment, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`models.methods.spec.Learner`; ``labels`` are not used."""
        augment = self.augmentation(moment)
        first, second = augment(images, generator), augment(images, generator)
        return self.contrast(first, second, moment=moment, generator=generator)

    def augmentation(self, moment: Moment) -> Augment:
        """What makes a view at this moment."""
        del moment
        return self._augment

    def contrast(
        self, first: Tensor, second: Tensor, *, moment: Moment, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of two views (N, C, H, W) of each image, and further scalars."""
        del moment, generator
        return self.criterion(*self.embed(torch.cat((first, second))).chunk(2)), {}

    def embed(self, images: Tensor) -> Tensor:
        """By the encoder's own normalization, which is the published one."""
        embedded: Tensor = self._projection(self._encoder(images))
        return embedded

    def attack_one(
        self, first: Tensor, second: Tensor, *, attack: ContrastiveAttack, generator: torch.Generator
    ) -> Tensor:
        """``first`` perturbed to raise its contrastive loss against ``second``, which stays as it is."""
        with self.attack_time.running(first.device), frozen(self.modules):
            with torch.no_grad():
                anchors = self.embed(second)
            return self._climb(first, lambda points: (self.embed(points), anchors), attack, generator=generator)

    def attack_both(
        self, first: Tensor, second: Tensor, *, attack: ContrastiveAttack, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Both views perturbed, to raise the contrastive loss between them."""

        def pair(points: Tensor) -> tuple[Tensor, ...]:
            return self.embed(points).chunk(2)

        with self.attack_time.running(first.device), frozen(self.modules):
            one, other = self._climb(torch.cat((first, second)), pair, attack, generator=generator).chunk(2)
        return one, other

    def _climb(
        self,
        images: Tensor,
        views: Callable[[Tensor], tuple[Tensor, ...]],
        attack: ContrastiveAttack,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        return climbing(
            # Times N: the mean over the batch becomes a sum, so that each image climbs at its own scale.
            lambda points: self.criterion(*views(points)) * len(points),
            images,
            attack=attack,
            generator=generator,
        )

    def remarks(self) -> list[dict[str, str]]:
        return []

    def published(self) -> ImageModel:
        return self._encoder
