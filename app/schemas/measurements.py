"""What evaluations answer in ``result``, and the failure of any job. Of the document alone, as app.schemas.figures."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from app.schemas.figures import Fraction, Interval, Sha256, sometimes
from models.references import ModelRef

Access = Literal["white-box", "black-box", "transfer", "control"]


class MeasuredData(BaseModel):
    """The images that were evaluated on."""

    name: str = Field(description="the data set")
    split: Literal["train", "test"] = Field(description="the split")
    sha256: Sha256 = Field(description="hash of the whole data set")
    size: int = Field(ge=1, description="images that were evaluated on")


class Part(BaseModel):
    """One part of an ensemble attack, such as AutoAttack."""

    name: str = Field(description="the part's attack")
    broken: int = Field(ge=0, description="images that it broke, of those that the parts before it left")
    robust_accuracy: float = Field(ge=0, le=1, description="what it and those before it left, a fraction")
    seconds: float = Field(ge=0, description="seconds that it took")


class MeasuredAttack(BaseModel):
    """What one attack did. Norms are of the perturbation, pixels in [0, 1], over the images that it fooled."""

    name: str = Field(description="the attack")
    access: Access = Field(description="what it knows; transfer and control are never part of a worst case")
    spec: dict[str, object] = Field(description="its parameters, defaults written out; see GET /attacks")
    robust_accuracy: float = Field(
        ge=0, le=1, description="share of all images that are classified right before and after it"
    )
    ci95: Interval = Field(description="95 % interval of `robust_accuracy` (Wilson)")
    success_rate: float | None = Field(
        ge=0, le=1, description="share of the images right before that it fooled; null: none was right"
    )
    mean_l2: float | None = Field(ge=0, description="mean L2 norm; null: it fooled none")
    mean_linf: float | None = Field(ge=0, le=1, description="mean Linf norm; null: it fooled none")
    median_l2: float | None = Field(ge=0, description="median L2 norm; null: it fooled none")
    median_linf: float | None = Field(ge=0, le=1, description="median Linf norm; null: it fooled none")
    per_class: dict[str, Fraction] = Field(description="robust accuracy by class, of the classes that have images")
    attacked: int = Field(ge=0, description="images that were right before, and so attacked")
    seconds: float = Field(ge=0, description="seconds of the attack alone")
    images_per_second: float | None = Field(ge=0, description="attacked images a second; null: none was attacked")
    l2_quantiles: dict[str, float | None] = sometimes(
        description="of a minimum-norm attack: share of the attacked images (`0.5`) → smallest L2 norm that breaks as "
        "many; null: it did not break so many",
    )
    note: str = sometimes(description="of a minimum-norm attack: how to read its numbers")
    parts: list[Part] = sometimes(description="of an ensemble: its parts, in their order")


class WorstCase(BaseModel):
    """Images that stand every attack in one ball."""

    norm: Literal["linf", "l2"] = Field(description="the ball's norm")
    eps: float = Field(ge=0, description="the ball's radius, pixels in [0, 1]")
    attacks: list[str] = Field(description="the attacks that were counted")
    accuracy: float = Field(ge=0, le=1, description="share of all images that stand them all")
    ci95: Interval = Field(description="95 % interval of `accuracy`")


class CurvePoint(BaseModel):
    """Robust accuracy at one radius."""

    eps: float = Field(ge=0, description="the radius, pixels in [0, 1]")
    robust_accuracy: float = Field(ge=0, le=1, description="a fraction of all images")
    ci95: Interval = Field(description="95 % interval of `robust_accuracy`")


class RequirementMet(BaseModel):
    """What became of one requirement."""

    attack: str = Field(description="the attack, `clean` or `worst_case`")
    need: str = Field(description="the bound as it was asked for, such as >=0.40")
    got: float = Field(ge=0, le=1, description="the accuracy that was measured, the lowest where there are several")
    met: bool = Field(description="whether `got` meets `need`")


class Cost(BaseModel):
    """What an evaluation took, over all its shards."""

    seconds: float = Field(ge=0, description="seconds, added up over shards")
    forward_images: int = Field(ge=0, description="images that went through the model for a verdict")
    gradient_images: int = Field(ge=0, description="images that went through the model for a gradient")


class EvaluationWarning(BaseModel):
    """A sign that the numbers should not be believed as they stand."""

    code: str = Field(description="which sign it is, such as few-images; docs/api.md lists them")
    detail: str = Field(description="the evidence")
    advice: str = Field(description="what to do")


class ExamplePrediction(BaseModel):
    """One kept example; classes are indices here, GET /jobs/{id}/examples has their names."""

    index: int = Field(ge=0, description="position of the image among those evaluated on")
    label: int = Field(ge=0, description="index of its true class")
    clean_prediction: int = Field(ge=0, description="index of the class that the model sees in the image as it was")
    adversarial_prediction: int = Field(ge=0, description="index of the class that it sees in the attacked image")
    attack: str = Field(description="the attack that is shown")
    linf: float = Field(ge=0, le=1, description="Linf norm of the perturbation, pixels in [0, 1]")
    l2: float = Field(ge=0, description="L2 norm of the perturbation, pixels in [0, 1]")
    survives_8bit: bool | None = Field(
        description="still wrong after rounding to 8 bits; null: the attack did not break the image"
    )


class Surviving(BaseModel):
    """What rounding to 8 bits, as a picture file does, leaves of the kept examples."""

    broken: int = Field(ge=0, description="examples that the attack broke")
    surviving: int = Field(ge=0, description="of those, examples that are still wrong after rounding")


class File(BaseModel):
    """An artifact in the storage."""

    sha256: Sha256 = Field(description="its hash")
    size: int = Field(ge=0, description="its bytes")


class EvaluationResult(BaseModel):
    """Result of an `evaluate` job, and of a `merge`, which joins the shards of one."""

    model: ModelRef = Field(description="the classifier, as name@version")
    dataset: MeasuredData = Field(description="the images")
    threat_model: str = Field(description="white-box: the attacks know the weights; `access` tells of each")
    clean_accuracy: float = Field(ge=0, le=1, description="without an attack, a fraction")
    clean_ci95: Interval = Field(description="95 % interval of `clean_accuracy` (Wilson)")
    clean_per_class: dict[str, Fraction] = Field(description="clean accuracy by class, of those that have images")
    attacks: list[MeasuredAttack] = Field(description="a row an attack, in the order of the spec")
    worst_case_accuracy: float | None = Field(
        ge=0, le=1, description="share of images that stand every bounded white- and black-box attack; null: none ran"
    )
    worst_cases: list[WorstCase] = Field(description="the same ball by ball")
    curve: list[CurvePoint] = Field(description="by growing radius; empty if none was asked for")
    requirements: list[RequirementMet] = Field(description="those of `require`; empty if none was asked for")
    cost: Cost = Field(description="time and passes")
    warnings: list[EvaluationWarning] = Field(description="none: an empty list")
    example_predictions: list[ExamplePrediction] = Field(description="of the kept examples, in their order")
    examples_surviving_8bit: Surviving = Field(description="what rounding leaves of the kept examples")
    examples: str = Field(description="path of the examples' list")
    examples_file: File | None = sometimes(
        description="the examples' exact pixels; null: removed since; left out if none were kept",
    )
    examples_pruned_at: str = sometimes(
        description="when the examples were removed; ISO 8601, UTC; left out while they are there",
    )


class ShardResult(BaseModel):
    """Result of a `shard`, a part of a large evaluation; the evaluation's own result has the numbers."""

    images: int = Field(ge=1, description="images of the shard")
    seconds: float = Field(ge=0, description="seconds that it took")
    evidence: Sha256 = Field(description="hash of what it saw, which its `merge` reads")


class SeverityAccuracy(BaseModel):
    """One corruption at one strength."""

    severity: int = Field(ge=1, le=5, description="strength, 1 to 5")
    accuracy: float = Field(ge=0, le=1, description="a fraction of all images")
    ci95: Interval = Field(description="95 % interval of `accuracy`")


class MeasuredCorruption(BaseModel):
    """One corruption at every strength asked for."""

    name: str = Field(description="the corruption; see GET /corruptions")
    group: str = Field(description="noise, blur, weather or digital")
    mean_accuracy: float = Field(ge=0, le=1, description="mean over the severities, a fraction")
    severities: list[SeverityAccuracy] = Field(description="each strength")
    note: str | None = Field(description="how it differs from CIFAR-10-C; null: not knowingly")
    seconds: float = Field(ge=0, description="seconds that it took")


class WorstCorruption(BaseModel):
    """The corruption that costs most."""

    name: str = Field(description="its name")
    mean_accuracy: float = Field(ge=0, le=1, description="mean over the severities, a fraction")


class SeverityMean(BaseModel):
    """All corruptions at one strength."""

    severity: int = Field(ge=1, le=5, description="strength, 1 to 5")
    mean_accuracy: float = Field(ge=0, le=1, description="mean over the corruptions, a fraction")


class CorruptionsResult(BaseModel):
    """Result of a `corruptions` job."""

    model: ModelRef = Field(description="the classifier, as name@version")
    dataset: MeasuredData = Field(description="the images")
    clean_accuracy: float = Field(ge=0, le=1, description="without a corruption, a fraction")
    clean_ci95: Interval = Field(description="95 % interval of `clean_accuracy` (Wilson)")
    mean_corruption_accuracy: float = Field(
        ge=0, le=1, description="mean over corruptions and severities, with equal weights, a fraction"
    )
    worst_corruption: WorstCorruption = Field(description="the one with the lowest mean")
    severities: list[SeverityMean] = Field(description="by strength")
    corruptions: list[MeasuredCorruption] = Field(description="in the order of the spec")
    seconds: float = Field(ge=0, description="seconds that it took")
