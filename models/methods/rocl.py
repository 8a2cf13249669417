"""RoCL: two views and an attacked one, all together (Kim et al. 2020, arXiv 2006.07589)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.methods.contrastive import ContrastiveAttack, ContrastiveLearner, ContrastiveParams
from models.methods.spec import METHODS, Augment, Learner, Method
from models.networks import ImageModel
from models.progress import Moment
from models.specs import OptimizerSpec


class RoCLParams(ContrastiveParams):
    """Defaults: 7 attack steps of 0.007 inside 8/255, τ 0.5, λ 1/256; SGD at 0.1·batch/256 in LARS (App. A)."""

    method: Literal["rocl"] = Field("rocl", description="name of the method; see GET /methods")
    optimizer: OptimizerSpec = OptimizerSpec(name="lars", lr=0.2, weight_decay=1e-6)
    attack: ContrastiveAttack = ContrastiveAttack(steps=7, step_size=0.007)
    regularization: float = Field(
        1 / 256, ge=0, le=1000, description="λ: weight of the attacked view's own contrastive loss"
    )


class RoCLLearner(ContrastiveLearner):
    """Minimizes ℓ(x₁, x₂, x₁') + λ ℓ(x₁', x₂), x₁' raising ℓ(x₁', x₂).

    Where the paper has one logarithm for all positives of a view, this is one for each, as in the authors' program;
    ℓ is the mean over pairs in both terms, where their program weighs the first one double.
    """

    def __init__(self, encoder: ImageModel, augment: Augment, params: RoCLParams) -> None:
        super().__init__(encoder, augment, params)
        self._attack = params.attack
        self._regularization = params.regularization

    def contrast(
        self, first: Tensor, second: Tensor, *, moment: Moment, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        attacked = self.attack_one(first, second, attack=self._attack, generator=generator)
        one, two, moved = self.embed(first, second, attacked)
        together, regularizer = self.criterion(one, two, moved), self.criterion(moved, two)
        return together + self._regularization * regularizer, {"adversarial_loss": regularizer.detach()}


def build(params: RoCLParams, model: ImageModel, *, base: ImageModel | None, augment: Augment) -> Learner:
    return RoCLLearner(model, augment, params)


METHODS.add(
    "rocl",
    Method(
        name="rocl",
        kind="pretrain",
        title="RoCL",
        params=RoCLParams,
        build=build,
        paper="Kim et al. 2020, Adversarial self-supervised contrastive learning, arXiv 2006.07589",
        formula="min ℓ(x₁, x₂, x₁'; τ) + λ ℓ(x₁', x₂; τ), x₁' = argmax over B(x₁, ε) of ℓ(x₁', x₂)",
        few_updates=400,
    ),
)
