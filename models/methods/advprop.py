"""AdvProp: adversarial images through batch normalization of their own (Xie et al. 2020, arXiv 1911.09665).

It raises the accuracy on clean and corrupted images. It is no defence: what is deployed never saw an attacked image
through its own normalization.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from models.methods.attacking import climbing
from models.methods.norms import AuxiliaryNorms
from models.methods.spec import METHODS, Augment, Learner, Method, Objective, TrainingAttack
from models.methods.supervised import OBJECTIVES, SupervisedParams, accuracy
from models.networks import ImageModel, frozen
from models.progress import Moment
from models.specs import OptimizerSpec
from models.stopwatch import Stopwatch


class AdvPropObjective(Objective):
    """The paper's attack, five steps of 1/255 inside 4/255 (§5.1)."""

    method: Literal["advprop"] = Field("advprop", description="name of the method; see GET /methods")
    attack: TrainingAttack = TrainingAttack(eps=4 / 255, steps=5, step_size=1 / 255)

    @property
    def second_norms(self) -> bool:
        return True


class AdvPropParams(AdvPropObjective, SupervisedParams):
    """Trained as ``pgd-at`` is."""

    epochs: int = Field(110, ge=1, le=100_000, description="passes over the training images")
    batch_size: int = Field(128, ge=2, le=65_536, description="images a step; at most the size of the data")
    optimizer: OptimizerSpec = OptimizerSpec(lr=0.1, weight_decay=5e-4)


class AdvPropLearner:
    """Minimizes CE(h(x; main norms), y) + CE(h(x'; auxiliary norms), y), x' attacking the auxiliary side (Eq. 3)."""

    def __init__(self, model: ImageModel, augment: Augment, *, attack: TrainingAttack) -> None:
        self.attack_time = Stopwatch()
        self._model = model
        self._auxiliary = AuxiliaryNorms(model)
        self.modules: nn.Module = nn.ModuleDict({"model": model, "auxiliary": self._auxiliary})
        self._augment = augment
        self._attack = attack

    def loss(
        self, images: Tensor, labels: Tensor, *, moment: Moment, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`models.methods.spec.Learner`."""
        images = self._augment(images, generator)
        with self.attack_time.running(images.device):
            attacked = self._perturb(images, labels, generator=generator)
        clean, adversarial = self._model(images).float(), self._auxiliary(attacked).float()
        loss = functional.cross_entropy(clean, labels)
        robust = functional.cross_entropy(adversarial, labels)
        return loss + robust, {"batch_accuracy": accuracy(clean, labels), "adversarial_loss": robust.detach()}

    def _perturb(self, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        attack, objective = self._attack, OBJECTIVES[self._attack.name]
        with frozen(self.modules):
            return climbing(
                lambda points: objective(self._auxiliary(points), labels),
                images,
                attack=attack,
                generator=generator,
            )

    def remarks(self) -> list[dict[str, str]]:
        detail = "advprop raises clean accuracy and is no defence; for robustness train by pgd-at or trades"
        return [{"code": "no-defence", "detail": detail}]

    def published(self) -> ImageModel:
        return self._model


def build(params: AdvPropParams, model: ImageModel, *, base: ImageModel | None, augment: Augment) -> Learner:
    return AdvPropLearner(model, augment, attack=params.attack)


METHODS.add(
    "advprop",
    Method(
        name="advprop",
        kind="train",
        title="AdvProp",
        params=AdvPropParams,
        objective=AdvPropObjective,
        build=build,
        paper="Xie et al. 2020, Adversarial examples improve image recognition, arXiv 1911.09665",
        formula="min CE(h(x; main norms), y) + CE(h(x'; auxiliary norms), y)",
        defends=False,
    ),
)
