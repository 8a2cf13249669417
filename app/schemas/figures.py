"""What a job answers in ``result``: trainings, probes and protocols. See also :mod:`app.schemas.measurements`.

These models are the document's alone: answers are not read through them, so that what other versions wrote stays
readable. A test holds them against what real jobs write (tests/system/test_contract.py).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.references import ModelRef

Fraction = Annotated[float, Field(ge=0, le=1)]
Interval = Annotated[list[Fraction], Field(min_length=2, max_length=2)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def sometimes(**given: Any) -> Any:
    """A field that is not always there: it has no default."""
    return Field(None, json_schema_extra=_without_default, **given)


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


class Figures(BaseModel):
    """The numbers of a training or probe."""

    steps: int = Field(ge=1, description="optimizer updates")
    seconds: float = Field(ge=0, description="seconds of the training, over all attempts and without pauses")
    images_per_second: float = Field(ge=0, description="training images a second, attacks included")
    attack_share: float = sometimes(
        ge=0,
        le=1,
        description="share of the seconds spent on attacks; left out of a linear probe's",
    )
    final_loss: float = Field(description="mean loss of the last epoch, in the method's own unit")
    best_step: int = sometimes(ge=0, description="step of the best look; left out without a validation")
    best_validation_pgd_accuracy: float = sometimes(
        ge=0,
        le=1,
        description="accuracy under PGD at the best look, a fraction; left out without a validation",
    )
    images: int = Field(ge=1, description="images that it trained on")
    clean_accuracy: float = sometimes(
        ge=0,
        le=1,
        description="on the test split, a fraction; left out of an encoder's, or of other classes",
    )
    knn_accuracy: float | None = sometimes(
        ge=0,
        le=1,
        description="share of training images that nearest neighbours among the others name right; of an encoder, or "
        "a classifier of other classes; null: not measured",
    )


class TrainingWarning(BaseModel):
    """What the owner of a model should know about its training."""

    code: str = Field(description="which sign it is, such as few-updates; docs/api.md lists them")
    detail: str = Field(description="what was seen, and what to change")


class TrainingResult(Figures):
    """Result of a `pretrain` or `train` job."""

    model: ModelRef = Field(description="the version that it made, as name@version")
    precision: Literal["float32", "bfloat16"] = Field(description="number format of the network's passes")
    warnings: list[TrainingWarning] = Field(description="none: an empty list")


class ProbeResult(Figures):
    """Result of a `probe` job."""

    model: ModelRef = Field(description="the classifier that it made, as name@version")
    clean_accuracy: float = Field(ge=0, le=1, description="on the test split, a fraction")
    warnings: list[TrainingWarning] = Field(description="none: an empty list")


class StepWarning(BaseModel):
    """A warning of one step of a protocol."""

    step: str = Field(description="the step, such as train:standard; it is `step` of that job")
    code: str = Field(description="which sign it is; docs/api.md lists them")
    detail: str = Field(description="what was seen")


class ProtocolRow(BaseModel):
    """A method in a protocol's comparison; its attacks' accuracies lie beside these fields, by the attack's name."""

    model_config = ConfigDict(
        json_schema_extra={
            "additionalProperties": {
                "type": "number",
                "minimum": 0,
                "maximum": 1,
                "description": "robust accuracy under the attack of this name (`pgd`, `pgd-100`, …), a fraction",
            }
        }
    )

    method: str = Field(description="the method, as in the protocol's `methods`")
    model: ModelRef = Field(description="the classifier that was attacked, as name@version")
    clean: float = Field(ge=0, le=1, description="accuracy without an attack, a fraction")
    seconds: float = Field(ge=0, description="seconds that its trainings took, pretraining and probe included")
    ci95: dict[str, Interval] = Field(description="95 % intervals of the accuracies: `clean` and each attack by name")
    evaluation: str = Field(description="id of the evaluation that measured them")
    warnings: list[StepWarning] = Field(description="of all its steps; none: an empty list")


class Conditions(BaseModel):
    """What a reader must know to judge a protocol's rows."""

    threat_model: str = Field(description="white-box: the attacks know the weights")
    norm: Literal["linf", "l2"] | None = Field(description="norm of the first bounded attack; null: none is bounded")
    eps: float | None = Field(ge=0, description="radius of that attack's ball, pixels in [0, 1]")
    steps: int | None = Field(ge=1, description="steps of the first bounded attack that takes steps")
    images: int = Field(ge=1, description="test images that each classifier was attacked on")
    seed: int = Field(ge=0, description="the protocol's seed")


class ProtocolResult(BaseModel):
    """Result of a `protocol` job."""

    rows: list[ProtocolRow] = Field(description="a row a method, in the order of `methods`")
    protocol: Conditions = Field(description="how the rows were measured")


class ComparedData(BaseModel):
    """The images of a row of a comparison; rows of the same images can be compared."""

    name: str = Field(description="the data set")
    split: Literal["train", "test"] = Field(description="the split that was attacked")
    subset: int | None = Field(ge=1, description="images taken of it; null: all")
    seed: int = Field(ge=0, description="seed of the choice")
    sha256: Sha256 | None = Field(description="hash of the data set")


class ComparedRow(BaseModel):
    """A model under an attack."""

    model: ModelRef = Field(description="the classifier, as name@version")
    method: str | None = Field(description="what trained or pretrained it; null: an upload, or deleted since")
    dataset: str = Field(description="name of the data set")
    data: ComparedData = Field(description="which of its images")
    images: int = Field(ge=1, description="how many images")
    clean: float = Field(ge=0, le=1, description="accuracy without an attack, a fraction")
    attack: str = Field(description="the attack, by a name that no other of its evaluation has: `pgd`, `pgd-100`, …")
    norm: Literal["linf", "l2"] | None = Field(description="norm of the attack's ball; null: it has none")
    eps: float | None = Field(ge=0, description="radius of the ball, pixels in [0, 1]; null: it has none")
    spec: dict[str, object] = Field(description="the attack's parameters, defaults written out; see GET /attacks")
    after: float = Field(ge=0, le=1, description="the model's robust accuracy, a fraction")
    ci95: Interval = Field(description="95 % interval of `after`")
    threat_model: str = Field(description="what the attack knows: white-box, black-box, transfer or control")
    warnings: list[str] = Field(description="codes of the evaluation's warnings, each once")
    job: str = Field(description="id of the evaluation")
    before: float | None = Field(
        ge=0,
        le=1,
        description="robust accuracy of the undefended model among these jobs under the same attack on the same "
        "images, a fraction; null: none, several, or the row is of one",
    )
    before_model: str | None = Field(description="that model, as name@version")


class Comparison(BaseModel):
    """Answer of GET /compare in JSON."""

    rows: list[ComparedRow] = Field(description="a row a model and attack, in the order of the jobs")
