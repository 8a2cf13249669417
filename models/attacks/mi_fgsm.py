"""MI-FGSM: iterated FGSM with momentum, whose images transfer well (Dong et al. 2018, algorithm 1)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from models.attacks.iterative import search
from models.attacks.noise import Noise
from models.attacks.objectives import cross_entropy
from models.attacks.spec import ATTACKS, Attack, SearchParams
from models.attacks.victim import Victim
from models.fields import Pixels, pixel_schema


class MIFGSMParams(SearchParams):
    """The paper's ten steps of eps / 10 from the clean image with μ = 1."""

    name: Literal["mi-fgsm"] = "mi-fgsm"
    steps: int = Field(10, ge=1, le=10_000, description="gradient steps a restart")
    step_size: Pixels = Field(
        None,
        validate_default=True,
        gt=0,
        le=1_000,
        json_schema_extra=pixel_schema(positive=True, null=True),
        description="length of one step in the ball's norm, pixels in [0, 1]; null: eps / steps",
    )
    random_start: bool = Field(False, description="start at a random point of the ball instead of the clean image")
    decay: float = Field(1.0, ge=0, le=10, description="μ: what is left of the momentum after a step")

    @field_validator("step_size", mode="before")
    @classmethod
    def _usual_step_size(cls, step_size: Any, info: ValidationInfo) -> Any:
        # With eps 0 (or a refused field) the step does not matter, but it must meet its own bound.
        return info.data.get("eps", 0.0) / info.data.get("steps", 10) or 2 / 255 if step_size is None else step_size


def run(victim: Victim, images: Tensor, labels: Tensor, params: MIFGSMParams, *, noise: Noise) -> Tensor:
    """See :class:`models.attacks.spec.Attack`."""
    return search(victim, images, labels, loss=cross_entropy, params=params, noise=noise, decay=params.decay)


ATTACKS.add(
    "mi-fgsm",
    Attack(
        name="mi-fgsm",
        title="MI-FGSM",
        params=MIFGSMParams,
        run=run,
        source="Dong et al.: Boosting Adversarial Attacks with Momentum, CVPR 2018, arXiv:1710.06081",
        formula="g ← μ·g + ∇CE(h(x'), y)/‖∇CE‖₁; x' ← Π_B(x, ε)(x' + α·sign g); L2: α·g/‖g‖₂; "
        "any iterate that is misclassified counts",
        stronger_than=("fgsm",),
    ),
)
