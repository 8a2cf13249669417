"""Standard training: cross-entropy on clean images. The undefended model, and the base of pseudo-labels."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from models.methods.spec import METHODS, Augment, Learner, Method
from models.methods.supervised import SupervisedLearner, SupervisedParams
from models.networks import ImageModel
from models.specs import OptimizerSpec


class StandardParams(SupervisedParams):
    """Defaults are those of the C-LEAD paper's base model: Adam 1e-4, batch 128."""

    method: Literal["standard"] = Field("standard", description="name of the method; see GET /methods")
    epochs: int = Field(100, ge=1, le=100_000, description="passes over the training images")
    batch_size: int = Field(128, ge=2, le=65_536, description="images a step; at most the size of the data")
    optimizer: OptimizerSpec = OptimizerSpec(name="adam", lr=1e-4, weight_decay=0.0)


def build(params: StandardParams, model: ImageModel, *, base: ImageModel | None, augment: Augment) -> Learner:
    return SupervisedLearner(model, augment, attack=None)


METHODS.add(
    "standard",
    Method(
        name="standard",
        kind="train",
        title="Standard training",
        params=StandardParams,
        build=build,
        paper="C-LEAD, arXiv 2510.27249, base model",
        formula="min CE(h(x), y)",
    ),
)
