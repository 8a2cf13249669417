"""TRADES: clean cross-entropy plus the divergence that an attack can cause (Zhang et al. 2019, arXiv 1901.08573)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from models.attacks.iterative import ascend
from models.attacks.noise import BatchNoise
from models.attacks.threat import threat_model
from models.losses import divergence
from models.methods.attacking import under_attack
from models.methods.spec import METHODS, Augment, Learner, Method, Objective, TrainingAttack
from models.methods.supervised import (
    STEPS,
    Forward,
    SupervisedLearner,
    SupervisedParams,
    WeightPerturbationSpec,
    accuracy,
)
from models.networks import ImageModel
from models.progress import Moment
from models.specs import OptimizerSpec, ScheduleSpec

START_DEVIATION = 0.001
"""Of the normal noise that the attack starts with: at x' = x the divergence has no slope."""


class TradesAttack(TrainingAttack):
    """Climbs the divergence from x + 0.001·N(0, 1), so neither an objective nor a random start is to be chosen."""

    name: Literal["pgd"] = Field("pgd", description="pgd on the divergence")
    random_start: Literal[False] = Field(False, description="the start is TRADES' own small normal noise")


class TradesObjective(Objective):
    """β 6 as the authors'; ten steps inside 8/255."""

    method: Literal["trades"] = Field("trades", description="name of the method; see GET /methods")
    attack: TradesAttack = TradesAttack()
    beta: float = Field(6.0, ge=0, le=1000, description="weight of the divergence")
    weight_perturbation: WeightPerturbationSpec | None = Field(
        None, description="adversarial weight perturbation; null: none"
    )


class TradesParams(TradesObjective, SupervisedParams):
    """Defaults: β 6 as the authors', trained as in Pang et al. 2021 (bag of tricks): SGD 0.1/0.9, weight decay 5e-4."""

    epochs: int = Field(110, ge=1, le=100_000, description="passes over the training images")
    batch_size: int = Field(128, ge=2, le=65_536, description="images a step; at most the size of the data")
    optimizer: OptimizerSpec = OptimizerSpec(lr=0.1, weight_decay=5e-4)
    schedule: ScheduleSpec = STEPS


class TradesLearner(SupervisedLearner):
    """Minimizes CE(h(x), y) + β·KL(p(x) ‖ p(x')), x' climbing the KL inside the ball (Eq. 5)."""

    def __init__(
        self,
        model: ImageModel,
        augment: Augment,
        *,
        attack: TrainingAttack,
        beta: float,
        weight_perturbation: WeightPerturbationSpec | None = None,
    ) -> None:
        super().__init__(model, augment, attack=attack, weight_perturbation=weight_perturbation)
        self._ball = attack
        self._beta = beta

    def perturb(self, images: Tensor, labels: Tensor, *, moment: Moment, generator: torch.Generator) -> Tensor:
        attack, noise = self._ball, BatchNoise(generator)
        with under_attack(self.model):
            with torch.no_grad():
                clean = self.model(images)
            return ascend(
                lambda points: divergence(clean, self.model(points)),
                images,
                threat=threat_model(attack.norm, attack.eps),
                steps=attack.steps,
                step_size=attack.step_size,
                noise=noise,
                start=images + START_DEVIATION * noise.normal(images),
            )

    def objective(
        self, forward: Forward, images: Tensor, attacked: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        clean, moved = forward(images).float(), forward(attacked).float()
        natural = functional.cross_entropy(clean, labels)
        robust = divergence(clean, moved).mean()
        told = {"batch_accuracy": accuracy(clean, labels), "divergence": robust.detach()}
        return natural + self._beta * robust, told


def build(params: TradesParams, model: ImageModel, *, base: ImageModel | None, augment: Augment) -> Learner:
    return TradesLearner(
        model, augment, attack=params.attack, beta=params.beta, weight_perturbation=params.weight_perturbation
    )


METHODS.add(
    "trades",
    Method(
        name="trades",
        kind="train",
        title="TRADES",
        params=TradesParams,
        objective=TradesObjective,
        build=build,
        paper="Zhang et al. 2019, Theoretically principled trade-off between robustness and accuracy, arXiv 1901.08573",
        formula="min CE(h(x), y) + β KL(p(x) ‖ p(x')), x' = argmax over B(x, ε) of the KL",
    ),
)
