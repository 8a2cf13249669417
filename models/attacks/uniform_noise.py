"""Uniform noise in the ball: what an attack that knows nothing of the model achieves."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from models.attacks.blind import first_that_fools
from models.attacks.noise import Noise
from models.attacks.spec import ATTACKS, FORWARD_COST, Attack, BoundedParams
from models.attacks.threat import threat_model
from models.attacks.victim import Victim


class UniformNoiseParams(BoundedParams):
    """Noise at 8/255 (linf) or 0.5 (l2) by default, drawn once an image."""

    name: Literal["uniform-noise"] = "uniform-noise"
    draws: int = Field(1, ge=1, le=10_000, description="independent draws an image; any of them may fool the model")

    @property
    def cost(self) -> float:
        return FORWARD_COST * self.draws


def run(victim: Victim, images: Tensor, labels: Tensor, params: UniformNoiseParams, *, noise: Noise) -> Tensor:
    """See :class:`models.attacks.spec.Attack`."""
    threat = threat_model(params.norm, params.eps)
    return first_that_fools(victim, images, labels, sample=threat.random_start, draws=params.draws, noise=noise)


ATTACKS.add(
    "uniform-noise",
    Attack(
        name="uniform-noise",
        title="Uniform noise",
        params=UniformNoiseParams,
        run=run,
        source="the random start of Madry et al.: Towards Deep Learning Models Resistant to Adversarial Attacks, "
        "ICLR 2018, arXiv:1706.06083, without a step",
        formula="x' = clamp(x + U(−ε, ε), 0, 1); L2: x + r·g/‖g‖₂, g normal, r uniform in [0, ε]",
        access="control",
    ),
)
