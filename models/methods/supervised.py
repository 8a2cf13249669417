"""What supervised methods share: a classifier, its augmented images, the attack on them, and a loss of both."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.attacks.objectives import cross_entropy, margin
from models.methods.attacking import climbing, under_attack
from models.methods.spec import Augment, TrainingAttack
from models.methods.weights import WorstWeights
from models.networks import ImageModel
from models.progress import Moment
from models.specs import LabelledData, ScheduleSpec, Spec, TrainingParams
from models.stopwatch import Stopwatch

OBJECTIVES = {"pgd": cross_entropy, "cw": margin}
"""What a training attack of each name climbs: (logits (N, K), labels (N,)) → (N,)."""

Forward = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) → logits (N, K) of the model, perhaps at other weights than its own."""


STEPS = ScheduleSpec(name="step")
"""A tenth of the rate from epoch 100 of 110, a hundredth from 105 (Pang et al. 2021, arXiv 2010.00467)."""


class SupervisedParams(TrainingParams):
    """What every supervised method may ask for: labels of a part of the images alone, too."""

    dataset: LabelledData


class WeightPerturbationSpec(Spec):
    """Adversarial weight perturbation (Wu et al. 2020, arXiv 2004.05884), whose program takes γ 0.01 from the start
    for PGD-AT, and 0.005 after 10 epochs for TRADES.
    """

    gamma: float = Field(5e-3, gt=0, le=1, description="length of a layer's perturbation over that of its weights")
    warmup_epochs: float = Field(0, ge=0, le=100_000, description="epochs before it begins")


class SupervisedLearner:
    """Minimizes CE(h(x'), y) with x' = augmented x, attacked if there is an ``attack``.

    The attack runs with batch normalization in eval mode and weights frozen. Methods override :meth:`perturb` and
    :meth:`objective`; with ``weight_perturbation`` the objective is taken at the weights that raise it most.
    """

    def __init__(
        self,
        model: ImageModel,
        augment: Augment,
        *,
        attack: TrainingAttack | None,
        weight_perturbation: WeightPerturbationSpec | None = None,
    ) -> None:
        self.modules: nn.Module = model
        self.attack_time = Stopwatch()
        self.model = model
        self._augment = augment
        self._attack = attack
        self._attacks = attack is not None
        self._worst = WorstWeights(model, gamma=weight_perturbation.gamma) if weight_perturbation else None
        self._worst_from = weight_perturbation.warmup_epochs if weight_perturbation else 0.0

    def loss(
        self, images: Tensor, labels: Tensor, *, moment: Moment, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`models.methods.spec.Learner`."""
        images = self._augment(images, generator)
        attacked = images
        if self._attacks:
            with self.attack_time.running(images.device):
                attacked = self.perturb(images, labels, moment=moment, generator=generator)
        forward: Forward = self.model
        if self._worst is not None and moment.epoch >= self._worst_from:
            with self.attack_time.running(images.device):
                forward = self._worst.against(lambda model: self.objective(model, images, attacked, labels)[0])
        return self.objective(forward, images, attacked, labels)

    def perturb(self, images: Tensor, labels: Tensor, *, moment: Moment, generator: torch.Generator) -> Tensor:
        """Attacked copies of the augmented images."""
        del moment
        assert self._attack is not None, "without an attack there is nothing to perturb"
        return strike(self.model, images, labels, attack=self._attack, generator=generator)

    def objective(
        self, forward: Forward, images: Tensor, attacked: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, a scalar, by ``forward``; beside it, the accuracy on the batch as trained on."""
        del images
        logits = forward(attacked).float()
        return functional.cross_entropy(logits, labels), {"batch_accuracy": accuracy(logits, labels)}

    def remarks(self) -> list[dict[str, str]]:
        return []

    def published(self) -> ImageModel:
        return self.model


def strike(
    model: ImageModel, images: Tensor, labels: Tensor, *, attack: TrainingAttack, generator: torch.Generator
) -> Tensor:
    """The last iterate of ``attack`` on classifier ``model``, held still, at images (N, C, H, W) in [0, 1]."""
    objective = OBJECTIVES[attack.name]
    with under_attack(model):
        return climbing(
            lambda points: objective(model(points), labels),
            images,
            attack=attack,
            generator=generator,
        )


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of logits (N, K) whose largest is the label's, a scalar without a gradient."""
    return (logits.detach().argmax(dim=1) == labels).float().mean()
