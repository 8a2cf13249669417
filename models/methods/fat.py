"""Friendly adversarial training: the attack stops soon after it succeeds (Zhang et al. 2020, arXiv 2002.11242)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from models.attacks.iterative import climb
from models.attacks.noise import BatchNoise
from models.attacks.threat import threat_model
from models.fields import JsonArray
from models.methods.attacking import under_attack
from models.methods.spec import METHODS, Augment, Learner, Method, Objective, TrainingAttack
from models.methods.supervised import OBJECTIVES, SupervisedLearner, SupervisedParams
from models.networks import ImageModel
from models.progress import Moment
from models.specs import OptimizerSpec


class FATObjective(Objective):
    """Ten steps at most inside 8/255; one more after success from epoch 50 of 120 on, and another from 90."""

    method: Literal["fat"] = Field("fat", description="name of the method; see GET /methods")
    attack: TrainingAttack = TrainingAttack(step_size=0.007)
    one_more_step_from: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], JsonArray] = Field(
        (50 / 120, 90 / 120),
        max_length=20,
        description="shares of the training from which an attack takes one step more after it has succeeded (τ)",
    )

    @field_validator("one_more_step_from")
    @classmethod
    def _ascending(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if list(shares) != sorted(shares):
            raise ValueError("give the shares in ascending order")
        return shares


class FATParams(FATObjective, SupervisedParams):
    """Defaults are the authors': 120 epochs of SGD 0.1/0.9, weight decay 2e-4.

    The learning rate follows a cosine where their program has steps.
    """

    epochs: int = Field(120, ge=1, le=100_000, description="passes over the training images")
    batch_size: int = Field(128, ge=2, le=65_536, description="images a step; at most the size of the data")
    optimizer: OptimizerSpec = OptimizerSpec(lr=0.1, weight_decay=2e-4)


class FATLearner(SupervisedLearner):
    """Minimizes CE(h(x'), y), x' by PGD that stops τ steps after an image is misclassified (Algorithm 1)."""

    def __init__(
        self, model: ImageModel, augment: Augment, *, attack: TrainingAttack, one_more_step_from: tuple[float, ...]
    ) -> None:
        super().__init__(model, augment, attack=attack)
        self._ball = attack
        self._from = one_more_step_from

    def perturb(self, images: Tensor, labels: Tensor, *, moment: Moment, generator: torch.Generator) -> Tensor:
        patience = sum(moment.share >= share for share in self._from)
        with under_attack(self.model):
            return self._friendly(images, labels, patience=patience, generator=generator)

    def _friendly(self, images: Tensor, labels: Tensor, *, patience: int, generator: torch.Generator) -> Tensor:
        """Images whose attack has ended leave the batch, so a step costs what the others need."""
        attack, objective = self._ball, OBJECTIVES[self._ball.name]
        threat = threat_model(attack.norm, attack.eps)
        points = threat.random_start(images, BatchNoise(generator)) if attack.random_start else images.clone()
        left = torch.arange(len(images), device=images.device)
        more = torch.full_like(labels, patience)
        for _ in range(attack.steps):
            with torch.enable_grad():
                current = points[left].requires_grad_(True)
                logits = self.model(current)
                (gradient,) = torch.autograd.grad(objective(logits, labels[left]).sum(), current)
            wrong = logits.detach().argmax(dim=1) != labels[left]
            going = ~(wrong & (more[left] == 0))
            more[left] -= wrong.long()
            left, current, gradient = left[going], current.detach()[going], gradient[going]
            if not len(left):
                break
            points[left] = climb(current, gradient, images=images[left], threat=threat, step_size=attack.step_size)
        return points


def build(params: FATParams, model: ImageModel, *, base: ImageModel | None, augment: Augment) -> Learner:
    return FATLearner(model, augment, attack=params.attack, one_more_step_from=params.one_more_step_from)


METHODS.add(
    "fat",
    Method(
        name="fat",
        kind="train",
        title="Friendly adversarial training",
        params=FATParams,
        objective=FATObjective,
        build=build,
        paper="Zhang et al. 2020, Attacks which do not kill training make adversarial learning stronger, "
        "arXiv 2002.11242",
        formula="min CE(h(x'), y), x' = PGD(x) stopped τ steps after h(x') ≠ y",
    ),
)
