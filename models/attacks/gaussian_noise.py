"""Gaussian noise: how a model takes an everyday disturbance, not a worst case."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from models.attacks.blind import first_that_fools
from models.attacks.noise import Noise
from models.attacks.spec import ATTACKS, FORWARD_COST, Attack, AttackParams
from models.attacks.victim import Victim
from models.fields import Pixels, pixel_schema


class GaussianNoiseParams(AttackParams):
    """Noise of standard deviation 8/255 by default, drawn once an image; no ball bounds it."""

    name: Literal["gaussian-noise"] = "gaussian-noise"
    std: Pixels = Field(
        8 / 255,
        ge=0,
        le=1_000,
        json_schema_extra=pixel_schema(),
        description="standard deviation of every pixel's noise before clamping, pixels in [0, 1]",
    )
    draws: int = Field(1, ge=1, le=10_000, description="independent draws an image; any of them may fool the model")

    @property
    def cost(self) -> float:
        return FORWARD_COST * self.draws


def run(victim: Victim, images: Tensor, labels: Tensor, params: GaussianNoiseParams, *, noise: Noise) -> Tensor:
    """See :class:`models.attacks.spec.Attack`."""

    def sample(images: Tensor, noise: Noise) -> Tensor:
        return (images + params.std * noise.normal(images)).clamp(0, 1)

    return first_that_fools(victim, images, labels, sample=sample, draws=params.draws, noise=noise)


ATTACKS.add(
    "gaussian-noise",
    Attack(
        name="gaussian-noise",
        title="Gaussian noise",
        params=GaussianNoiseParams,
        run=run,
        source="Hendrycks, Dietterich: Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, "
        "ICLR 2019, arXiv:1903.12261, §4.1 (Gaussian noise)",
        formula="x' = clamp(x + N(0, σ²), 0, 1)",
        access="control",
    ),
)
