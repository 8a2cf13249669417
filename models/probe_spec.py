"""What a probe may ask for: a classifier on the features of a pretrained backbone, in the field's three protocols."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from models.methods.spec import TrainingAttack
from models.references import ModelRef
from models.specs import AugmentationSpec, LabelledData, OptimizerSpec, Precision, ScheduleSpec, Seed, Spec, completed

Mode = Literal["linear", "adversarial-linear", "adversarial-full"]

_HEAD: dict[str, Any] = {
    "epochs": 100,
    "optimizer": OptimizerSpec(name="adam", lr=1e-4, weight_decay=0.0),
    "schedule": ScheduleSpec(name="constant"),
}
_USUAL: dict[str, dict[str, Any]] = {
    "linear": _HEAD,
    "adversarial-linear": _HEAD,
    "adversarial-full": {
        "epochs": 25,
        "optimizer": OptimizerSpec(lr=0.1, weight_decay=5e-4),
        "schedule": ScheduleSpec(name="step", milestones=(15 / 25, 20 / 25)),
    },
}
"""Defaults by mode: C-LEAD's for a linear layer (Adam 1e-4, batch 128), ACL's for all weights (25 epochs, SGD 0.1)."""


class ProbeParams(Spec):
    """A classifier made from a registered model's backbone."""

    model: ModelRef = Field(description="registered model whose backbone is probed")
    mode: Mode = Field(
        "linear",
        description="linear: frozen backbone, clean cross-entropy (SLF); adversarial-linear: frozen backbone, "
        "cross-entropy on attacked images (ALF); adversarial-full: all weights by TRADES (AFF)",
    )
    dataset: LabelledData
    epochs: int = Field(
        None,  # the mode's own, below
        validate_default=True,
        ge=1,
        le=100_000,
        description="passes over the training images; null: 100, or 25 for adversarial-full",
    )
    batch_size: int = Field(128, ge=2, le=65_536, description="images a step; at most the size of the data")
    optimizer: OptimizerSpec = Field(
        None,
        validate_default=True,
        description="null: Adam 1e-4, or for adversarial-full SGD 0.1 with momentum and weight decay 5e-4",
    )
    schedule: ScheduleSpec = Field(
        None,
        validate_default=True,
        description="null: constant, or for adversarial-full a tenth at 15 and at 20 of 25 epochs",
    )
    attack: TrainingAttack = Field(TrainingAttack(), description="of the adversarial modes")
    beta: float = Field(6.0, ge=0, le=1000, description="adversarial-full alone: weight of TRADES' divergence")
    augmentation: AugmentationSpec = AugmentationSpec()
    precision: Precision = Field(
        "auto", description="of the adversarial modes, as in trainings; linear is computed in float32"
    )
    seed: Seed = 0

    @field_validator("epochs", "optimizer", "schedule", mode="before")
    @classmethod
    def _usual(cls, value: Any, info: ValidationInfo) -> Any:
        usual = _USUAL[info.data.get("mode", "linear")][str(info.field_name)]
        return usual if value is None else completed(value, usual)

    @field_validator("attack")
    @classmethod
    def _climbing_what_the_mode_climbs(cls, attack: TrainingAttack, info: ValidationInfo) -> TrainingAttack:
        if info.data.get("mode") == "adversarial-full" and (attack.name != "pgd" or not attack.random_start):
            raise ValueError("adversarial-full climbs TRADES' divergence by pgd, always from a random start")
        return attack
