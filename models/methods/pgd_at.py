"""PGD adversarial training (Madry et al. 2018)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from models.methods.spec import METHODS, Augment, Learner, Method, Objective, TrainingAttack
from models.methods.supervised import STEPS, SupervisedLearner, SupervisedParams, WeightPerturbationSpec
from models.networks import ImageModel
from models.specs import OptimizerSpec, ScheduleSpec


class PGDATObjective(Objective):
    """Ten steps inside 8/255."""

    method: Literal["pgd-at"] = Field("pgd-at", description="name of the method; see GET /methods")
    attack: TrainingAttack = TrainingAttack()
    weight_perturbation: WeightPerturbationSpec | None = Field(
        None, description="adversarial weight perturbation; null: none"
    )


class PGDATParams(PGDATObjective, SupervisedParams):
    """Defaults are the usual ones for CIFAR-10 (Pang et al. 2021, arXiv 2010.00467): 110 epochs of SGD 0.1/0.9."""

    epochs: int = Field(110, ge=1, le=100_000, description="passes over the training images")
    batch_size: int = Field(128, ge=2, le=65_536, description="images a step; at most the size of the data")
    optimizer: OptimizerSpec = OptimizerSpec(lr=0.1, weight_decay=5e-4)
    schedule: ScheduleSpec = STEPS


def build(params: PGDATParams, model: ImageModel, *, base: ImageModel | None, augment: Augment) -> Learner:
    return SupervisedLearner(model, augment, attack=params.attack, weight_perturbation=params.weight_perturbation)


METHODS.add(
    "pgd-at",
    Method(
        name="pgd-at",
        kind="train",
        title="PGD adversarial training",
        params=PGDATParams,
        objective=PGDATObjective,
        build=build,
        paper="Madry et al. 2018, Towards deep learning models resistant to adversarial attacks, arXiv 1706.06083",
        formula="min CE(h(x'), y), x' = argmax over B(x, ε) of CE(h(x'), y)",
    ),
)
