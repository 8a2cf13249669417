"""LAS-AT: a second network learns how each image should be attacked (Jia et al. 2022, arXiv 2203.06616)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from models.attacks.noise import derive_seed
from models.fields import JsonArray
from models.methods.las_at_learner import LASATLearner
from models.methods.spec import METHODS, Augment, Learner, Method, Objective, TrainingAttack
from models.methods.strategy import StrategyNetwork
from models.methods.supervised import STEPS, SupervisedParams
from models.networks import ImageModel, build_model, initialize
from models.specs import BackboneSpec, ModelCard, OptimizerSpec, ScheduleSpec, Spec

Factor = Annotated[float, Field(gt=0, le=10)]
Count = Annotated[int, Field(ge=1, le=1_000)]


class LinfAttack(TrainingAttack):
    """In the ball that the strategy chooses from."""

    norm: Literal["linf"] = Field("linf", description="the ball's norm")


class StrategySpec(Spec):
    """What the strategy network chooses from, and how it learns; values of the authors' code for CIFAR-10."""

    backbone: BackboneSpec = BackboneSpec()
    eps: Annotated[tuple[Factor, Factor], JsonArray] = Field(
        (3 / 8, 14 / 8), description="smallest and largest radius over the attack's own"
    )
    eps_choices: int = Field(12, ge=2, le=100, description="evenly spaced radii to choose from")
    steps: Annotated[tuple[Count, Count], JsonArray] = Field(
        (3, 13), description="fewest and most gradient steps; each count is a choice"
    )
    step_size: Annotated[tuple[Factor, Factor], JsonArray] = Field(
        (1 / 8, 4 / 8), description="shortest and longest step over that radius"
    )
    step_size_choices: int = Field(4, ge=2, le=100, description="evenly spaced lengths to choose from")
    every: int = Field(20, ge=1, le=100_000, description="updates of the target between two of the strategy")
    lr: float = Field(1e-4, gt=0, le=10, description="learning rate of plain SGD, gradients clipped to norm 1")
    robustness: float = Field(4.0, ge=0, le=1000, description="reward for the robust accuracy after one update")
    clean: float = Field(2.0, ge=0, le=1000, description="reward for the clean accuracy after one update")

    @model_validator(mode="after")
    def _ascending(self) -> StrategySpec:
        for name in ("eps", "steps", "step_size"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name}: give the lowest value first")
        return self

    def choices(self, eps: float) -> dict[str, Tensor]:
        """Name → the values (M,) to choose from, where the reference attack has radius ``eps``."""
        return {
            "eps": eps * torch.linspace(*self.eps, self.eps_choices),
            "steps": torch.arange(self.steps[0], self.steps[1] + 1),
            "step_size": eps * torch.linspace(*self.step_size, self.step_size_choices),
        }


class LASATObjective(Objective):
    """Label smoothing to 0.7, the strategy's values as in the authors' code."""

    method: Literal["las-at"] = Field("las-at", description="name of the method; see GET /methods")
    attack: LinfAttack = Field(LinfAttack(), description="reference attack, that the reward's robustness is of")
    strategy: StrategySpec = StrategySpec()
    label_confidence: float = Field(0.7, gt=0.5, le=1, description="share of the label in the smoothed target; 1: all")


class LASATParams(LASATObjective, SupervisedParams):
    """Defaults are the authors': 110 epochs of SGD 0.1/0.9, the rate falling at 100 and 105, weight decay 5e-4."""

    epochs: int = Field(110, ge=1, le=100_000, description="passes over the training images")
    batch_size: int = Field(128, ge=2, le=65_536, description="images a step; at most the size of the data")
    optimizer: OptimizerSpec = OptimizerSpec(lr=0.1, weight_decay=5e-4)
    schedule: ScheduleSpec = STEPS


def build(params: LASATParams, model: ImageModel, *, base: ImageModel | None, augment: Augment) -> Learner:
    card = ModelCard(
        kind="encoder",
        backbone=params.strategy.backbone,
        image_shape=model.card.image_shape,
        mean=model.card.mean,
        std=model.card.std,
    )
    encoder = build_model(card, seed=derive_seed(params.seed, "strategy"))
    strategy = StrategyNetwork(encoder, choices=params.strategy.choices(params.attack.eps))
    initialize(strategy.heads, seed=derive_seed(params.seed, "strategy heads"))
    return LASATLearner(
        model,
        augment,
        strategy=strategy,
        reference=params.attack,
        every=params.strategy.every,
        strategy_lr=params.strategy.lr,
        robustness=params.strategy.robustness,
        clean=params.strategy.clean,
        label_confidence=params.label_confidence,
    )


METHODS.add(
    "las-at",
    Method(
        name="las-at",
        kind="train",
        title="LAS-AT",
        params=LASATParams,
        objective=LASATObjective,
        build=build,
        paper="Jia et al. 2022, LAS-AT: adversarial training with learnable attack strategy, arXiv 2203.06616",
        formula="min CE(h(x'), y), the strategy max CE(h(x'), y) + 4 robust + 2 clean accuracy after an update",
    ),
)
