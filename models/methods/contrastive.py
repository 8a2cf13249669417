"""What contrastive methods share: an encoder with its projection head, two augmented views, and attacks on both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.attacks.noise import derive_seed
from models.fields import ChunkSize
from models.losses import NTXent
from models.methods.attacking import climbing, under_attack
from models.methods.chunks import in_chunks
from models.methods.spec import Augment, TrainingAttack
from models.networks import ImageModel, ProjectionHead, frozen, initialize
from models.progress import Moment
from models.specs import SIMCLR, AugmentationSpec, OptimizerSpec, ProjectionSpec, ScheduleSpec, TrainingParams
from models.stopwatch import Stopwatch


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
    chunk_size: ChunkSize = None


class ContrastiveLearner:
    """Minimizes NT-Xent over two augmented views, which is SimCLR; the methods with attacks override :meth:`contrast`.

    Attacks run with batch normalization in eval mode and weights frozen.
    """

    def __init__(self, encoder: ImageModel, augment: Augment, params: ContrastiveParams) -> None:
        self.attack_time = Stopwatch()
        self.criterion = NTXent(params.temperature)
        self._encoder = encoder
        self._augment = augment
        self._chunk_size = params.chunk_size
        self._projection = ProjectionHead(encoder.backbone.feature_dim, params.projection)
        initialize(self._projection, seed=derive_seed(params.seed, "projection"))
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
        return self.criterion(*self.embed(first, second)), {}

    def embed(self, *views: Tensor, by: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, ...]:
        """Unit vectors (N, D) of each view (N, C, H, W); ``by`` the encoder, or what takes its place.

        All views go through batch normalization together; the encoder's own is the published one.
        """
        features = in_chunks(by or self._encoder, views, chunk_size=self._chunk_size, norms=self.modules)
        embedded: tuple[Tensor, ...] = self._projection(features).chunk(len(views))
        return embedded

    def attack_one(
        self,
        first: Tensor,
        second: Tensor,
        *,
        attack: ContrastiveAttack,
        generator: torch.Generator,
        anchors_by: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """``first`` perturbed to raise its contrastive loss against ``second``, which stays as it is and is embedded
        by ``anchors_by``, or the encoder.
        """
        with self.attack_time.running(first.device):
            with frozen(self.modules), torch.no_grad():  # not folded: that would be with the encoder's own norms
                anchors = self.embed(second, by=anchors_by)
            with under_attack(self.modules):
                (moved,) = self._climb(
                    (first,), lambda points: (*self.embed(points), *anchors), attack, generator=generator
                )
        return moved

    def attack_both(
        self, first: Tensor, second: Tensor, *, attack: ContrastiveAttack, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Both views perturbed, to raise the contrastive loss between them."""
        with self.attack_time.running(first.device), under_attack(self.modules):
            one, other = self._climb(
                (first, second), lambda points: self.embed(*points.chunk(2)), attack, generator=generator
            )
        return one, other

    def _climb(
        self,
        views: tuple[Tensor, ...],
        embedded: Callable[[Tensor], tuple[Tensor, ...]],
        attack: ContrastiveAttack,
        *,
        generator: torch.Generator,
    ) -> tuple[Tensor, ...]:
        moved = climbing(
            # Times N: the mean over the batch becomes a sum, so that each image climbs at its own scale.
            lambda points: self.criterion(*embedded(points)) * len(points),
            torch.cat(views),
            attack=attack,
            generator=generator,
            parts=len(views),
        )
        return moved.chunk(len(views))

    def remarks(self) -> list[dict[str, str]]:
        return []

    def published(self) -> ImageModel:
        return self._encoder
