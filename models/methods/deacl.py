"""DeACL: a robust student of a clean self-supervised teacher (Zhang et al. 2022, arXiv 2207.10899)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.attacks.noise import derive_seed
from models.methods.attacking import climbing, under_attack
from models.methods.spec import METHODS, Augment, Learner, Method, TrainingAttack
from models.networks import ImageModel, IncompatibleModelError, frozen, initialize
from models.progress import Moment
from models.references import ModelRef
from models.specs import OptimizerSpec, ScheduleSpec, TrainingParams
from models.stopwatch import Stopwatch


class SimilarityAttack(TrainingAttack):
    """Lowers the cosine to the teacher's features, so no objective is to be chosen."""

    name: Literal["pgd"] = Field("pgd", description="pgd on the cosine of the features")
    steps: int = Field(5, ge=1, le=1_000, description="gradient steps")


class DeACLParams(TrainingParams):
    """Defaults: 100 epochs, SGD 0.5, weight decay 5e-4, batch 512, weak augmentation, weight 2."""

    method: Literal["deacl"] = Field("deacl", description="name of the method; see GET /methods")
    base_model: ModelRef = Field(
        description="registered model trained without attacks, by simclr as a rule: the teacher"
    )
    epochs: int = Field(100, ge=1, le=100_000, description="passes over the training images")
    optimizer: OptimizerSpec = OptimizerSpec(lr=0.5, weight_decay=5e-4)
    schedule: ScheduleSpec = ScheduleSpec(warmup_epochs=10)
    attack: SimilarityAttack = SimilarityAttack()
    robustness: float = Field(2.0, ge=0, le=1000, description="γ: weight of the attacked image's term")


class DeACLLearner:
    """Minimizes −cos(s(x), t(x)) − γ cos(s(x'), s(x)) over the student s, x' lowering cos(s(x'), t(x)).

    The attack is that of the authors' program. Features of different lengths are compared after a linear layer on the
    student's, which is dropped.
    """

    def __init__(
        self,
        student: ImageModel,
        augment: Augment,
        *,
        teacher: ImageModel,
        attack: TrainingAttack,
        robustness: float,
        seed: int,
    ) -> None:
        if teacher.card.image_shape[0] != student.card.image_shape[0]:
            raise IncompatibleModelError(
                f"the base model takes {teacher.card.image_shape[0]} channels; the data has "
                f"{student.card.image_shape[0]}"
            )
        self.attack_time = Stopwatch()
        self._student = student
        self._teacher = teacher
        self._augment = augment
        self._attack = attack
        self._robustness = robustness
        ours, theirs = student.backbone.feature_dim, teacher.backbone.feature_dim
        self._bridge: nn.Module = nn.Identity() if ours == theirs else nn.Linear(ours, theirs)
        initialize(self._bridge, seed=derive_seed(seed, "bridge"))
        self.modules: nn.Module = nn.ModuleDict({"student": student, "bridge": self._bridge})

    def loss(
        self, images: Tensor, labels: Tensor, *, moment: Moment, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`models.methods.spec.Learner`; ``labels`` are not used."""
        images = self._augment(images, generator)
        with torch.no_grad(), frozen(self._teacher):
            target = self._teacher.features(images).float()
        with self.attack_time.running(images.device):
            attacked = self._perturb(images, target, generator=generator)
        clean, moved = self._student.features(torch.cat((images, attacked))).float().chunk(2)
        distilled = functional.cosine_similarity(self._bridge(clean).float(), target).mean()
        stable = functional.cosine_similarity(moved, clean).mean()
        loss = -distilled - self._robustness * stable
        return loss, {"teacher_cosine": distilled.detach(), "attacked_cosine": stable.detach()}

    def _perturb(self, images: Tensor, target: Tensor, *, generator: torch.Generator) -> Tensor:
        def away(points: Tensor) -> Tensor:
            return -functional.cosine_similarity(self._bridge(self._student.features(points)).float(), target)

        with under_attack(self.modules):
            return climbing(away, images, attack=self._attack, generator=generator)

    def remarks(self) -> list[dict[str, str]]:
        return []

    def published(self) -> ImageModel:
        return self._student


def build(params: DeACLParams, model: ImageModel, *, base: ImageModel | None, augment: Augment) -> Learner:
    assert base is not None, "the field is not optional"
    return DeACLLearner(
        model, augment, teacher=base, attack=params.attack, robustness=params.robustness, seed=params.seed
    )


METHODS.add(
    "deacl",
    Method(
        name="deacl",
        kind="pretrain",
        title="DeACL",
        params=DeACLParams,
        build=build,
        paper="Zhang et al. 2022, Decoupled adversarial contrastive learning, arXiv 2207.10899",
        formula="min −cos(s(x), t(x)) − γ cos(s(x'), s(x)), x' = argmin over B(x, ε) of cos(s(x'), t(x))",
        teacher="simclr",
    ),
)
