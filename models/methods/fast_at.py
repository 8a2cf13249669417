"""Adversarial training by one gradient step, and a guard against its known collapse (catastrophic overfitting)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from models.attacks.noise import BatchNoise
from models.attacks.spec import BoundedParams
from models.distributed import mean
from models.fields import Pixels, pixel_schema
from models.loop import DivergedError
from models.methods.attacking import under_attack
from models.methods.spec import METHODS, Augment, Learner, Method, Objective, TrainingAttack
from models.methods.supervised import OBJECTIVES, SupervisedLearner, SupervisedParams, accuracy, strike
from models.networks import ImageModel, frozen
from models.progress import Moment
from models.specs import OptimizerSpec, Spec


class FastAttack(BoundedParams):
    """One signed step from a random point."""

    name: Literal["fgsm-rs", "n-fgsm"] = Field(
        "n-fgsm",
        description="fgsm-rs: start in the ball, project back into it (Wong et al. 2020); n-fgsm: start in a ball "
        "twice as large and do not project (de Jorge et al. 2022)",
    )
    norm: Literal["linf"] = Field("linf", description="the ball's norm")
    step_size: Pixels = Field(
        None,
        validate_default=True,
        gt=0,
        le=1,
        json_schema_extra=pixel_schema(positive=True, null=True),
        description="length of the step, pixels in [0, 1]; null: 1.25 eps for fgsm-rs, eps for n-fgsm",
    )

    @field_validator("step_size", mode="before")
    @classmethod
    def _usual_step_size(cls, step_size: Any, info: ValidationInfo) -> Any:
        usual = 1.25 if info.data.get("name") == "fgsm-rs" else 1.0
        return min(1.0, usual * info.data.get("eps", 0.0)) or 2 / 255 if step_size is None else step_size


class GuardSpec(Spec):
    """Looks at a batch every so often, and the last: a model that stands the step and falls to PGD has collapsed."""

    every: int = Field(50, ge=1, le=1_000_000, description="updates between two looks")
    steps: int = Field(10, ge=2, le=1_000, description="of the PGD that the step is compared with; step size eps / 4")
    gap: float = Field(0.2, gt=0, le=1, description="accuracy under the step less that under PGD which is a collapse")
    action: Literal["repair", "stop"] = Field(
        "repair", description="repair: train by that PGD until the gap is half as large; stop: the job fails, saying so"
    )


class FastATObjective(Objective):
    """N-FGSM inside 8/255, guarded."""

    method: Literal["fast-at"] = Field("fast-at", description="name of the method; see GET /methods")
    attack: FastAttack = FastAttack()
    guard: GuardSpec | None = Field(GuardSpec(), description="guard against catastrophic overfitting; null: none")


class FastATParams(FastATObjective, SupervisedParams):
    """Defaults are N-FGSM's for CIFAR-10: 30 epochs, SGD 0.9, weight decay 5e-4 (de Jorge et al. 2022, §4)."""

    epochs: int = Field(30, ge=1, le=100_000, description="passes over the training images")
    batch_size: int = Field(128, ge=2, le=65_536, description="images a step; at most the size of the data")
    optimizer: OptimizerSpec = OptimizerSpec(lr=0.2, weight_decay=5e-4)


class GuardState(nn.Module):
    """What the guard knows; buffers, so that a resumed training goes on as the first one would have."""

    repairing: Tensor
    collapses: Tensor
    first: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("repairing", "collapses", "first"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))


class FastATLearner(SupervisedLearner):
    """Minimizes CE(h(x'), y), x' = x + η + α sign ∇CE(x + η), η uniform; in the ball alone for ``fgsm-rs``."""

    def __init__(self, model: ImageModel, augment: Augment, *, attack: FastAttack, guard: GuardSpec | None) -> None:
        super().__init__(model, augment, attack=None)
        self._attacks = True
        self._fast = attack
        self._guard = guard
        self._state = GuardState()
        self.modules = nn.ModuleDict({"model": model, "guard": self._state})

    def perturb(self, images: Tensor, labels: Tensor, *, moment: Moment, generator: torch.Generator) -> Tensor:
        guard = self._guard
        looking = guard is not None and (
            moment.step % guard.every == guard.every - 1 or moment.step == moment.total - 1
        )
        if guard is None or not (looking or self._state.repairing):
            return self._one_step(images, labels, generator=generator)
        pgd = TrainingAttack(eps=self._fast.eps, steps=guard.steps)
        if not looking:
            return strike(self.model, images, labels, attack=pgd, generator=generator)
        fast = self._one_step(images, labels, generator=generator)
        strong = strike(self.model, images, labels, attack=pgd, generator=generator)
        self._judge(guard, fast, strong, labels, step=moment.step)
        return strong if self._state.repairing else fast

    def _one_step(self, images: Tensor, labels: Tensor, *, generator: torch.Generator) -> Tensor:
        attack, noise = self._fast, BatchNoise(generator)
        room = attack.eps if attack.name == "fgsm-rs" else 2 * attack.eps
        with under_attack(self.model), torch.enable_grad():
            start = (images + room * noise.uniform(images)).clamp(0, 1).requires_grad_(True)
            (gradient,) = torch.autograd.grad(OBJECTIVES["pgd"](self.model(start), labels).sum(), start)
        delta = start.detach() + attack.step_size * gradient.sign() - images
        if attack.name == "fgsm-rs":
            delta = delta.clamp(-attack.eps, attack.eps)
        return (images + delta).clamp(0, 1)

    @torch.no_grad()
    def _judge(self, guard: GuardSpec, fast: Tensor, strong: Tensor, labels: Tensor, *, step: int) -> None:
        with frozen(self.model):
            stands = [mean(accuracy(self.model(points), labels)).item() for points in (fast, strong)]
        gap, state = stands[0] - stands[1], self._state
        if state.repairing:
            state.repairing.fill_(int(gap > guard.gap / 2))
        elif gap > guard.gap:
            if guard.action == "stop":
                raise DivergedError(
                    f"catastrophic overfitting at step {step + 1}: {stands[0]:.2f} of a batch stands the one-step "
                    f"attack and {stands[1]:.2f} PGD-{guard.steps}; guard.action 'repair' trains on, pgd-at does not "
                    "collapse"
                )
            if not state.collapses:
                state.first.fill_(step + 1)
            state.repairing.fill_(1)
            state.collapses += 1

    def remarks(self) -> list[dict[str, str]]:
        times = int(self._state.collapses)
        if not times:
            return []
        cure = "repaired by training with PGD until the model stood it again: compare with pgd-at before you trust it"
        if self._state.repairing:
            cure = "the training ended before PGD had repaired it: do not use this model, train longer or take pgd-at"
        detail = f"catastrophic overfitting, first seen at step {int(self._state.first)}, {times} times in all; {cure}"
        return [{"code": "catastrophic-overfitting", "detail": detail}]


def build(params: FastATParams, model: ImageModel, *, base: ImageModel | None, augment: Augment) -> Learner:
    return FastATLearner(model, augment, attack=params.attack, guard=params.guard)


METHODS.add(
    "fast-at",
    Method(
        name="fast-at",
        kind="train",
        title="Fast adversarial training",
        params=FastATParams,
        objective=FastATObjective,
        build=build,
        paper="Wong et al. 2020, Fast is better than free, arXiv 2001.03994; de Jorge et al. 2022, Make some noise, "
        "arXiv 2202.01181",
        formula="min CE(h(x'), y), x' = x + η + α sign ∇CE(h(x + η), y), η uniform",
    ),
)
