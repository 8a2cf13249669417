"""What supervised methods share: cross-entropy of a classifier on augmented, perhaps attacked, images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.attacks.iterative import ascend
from models.attacks.noise import BatchNoise
from models.attacks.objectives import cross_entropy, margin
from models.attacks.threat import threat_model
from models.methods.spec import Augment, TrainingAttack
from models.networks import ImageModel, frozen
from models.stopwatch import Stopwatch

OBJECTIVES = {"pgd": cross_entropy, "cw": margin}
"""What a training attack of each name climbs: (logits (N, K), labels (N,)) → (N,)."""


class SupervisedLearner:
    """Minimizes CE(h(x'), y) with x' = augmented x, attacked if there is an ``attack``.

    The attack runs with batch normalization in eval mode and weights frozen.
    """

    def __init__(self, model: ImageModel, augment: Augment, *, attack: TrainingAttack | None) -> None:
        self.modules: nn.Module = model
        self.attack_time = Stopwatch()
        self._model = model
        self._augment = augment
        self._attack = attack

    def loss(
        self, images: Tensor, labels: Tensor, *, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`models.methods.spec.Learner`; beside the loss, the accuracy on the batch as trained on."""
        images = self._augment(images, generator)
        if self._attack is not None:
            with self.attack_time.running(images.device):
                images = self._perturbed(images, labels, self._attack, generator=generator)
        logits = self._model(images).float()
        accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
        return functional.cross_entropy(logits, labels), {"batch_accuracy": accuracy}

    def published(self) -> ImageModel:
        return self._model

    def _perturbed(
        self, images: Tensor, labels: Tensor, attack: TrainingAttack, *, generator: torch.Generator
    ) -> Tensor:
        objective = OBJECTIVES[attack.name]
        with frozen(self._model):
            return ascend(
                lambda points: objective(self._model(points), labels),
                images,
                threat=threat_model(attack.norm, attack.eps),
                steps=attack.steps,
                step_size=attack.step_size,
                noise=BatchNoise(generator),
                random_start=attack.random_start,
            )
