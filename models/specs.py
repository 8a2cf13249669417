"""What a job may ask for, as validated values. Nothing here needs torch, so that a spec can be checked anywhere.

Perturbation sizes are given in pixels of [0, 1], as a number or as the fraction that the field writes ("8/255").
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from models.fields import ClassName, JsonArray, Pixels, inside_pixel_range, pixel_schema
from models.references import ModelRef, Name


class Spec(BaseModel):
    """Base of every spec: unknown fields, NaN and infinity are refused, ``true`` and ``"1"`` are no numbers.

    An object that is given in part is completed from the field's default, see :func:`completed`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: completed(given, cls._own(name)) for name, given in data.items()}

    @classmethod
    def _own(cls, name: str) -> Any:
        field = cls.model_fields.get(name)
        return field.get_default(call_default_factory=True) if field else None


def completed(given: Any, own: Any) -> Any:
    """``given``, an object of some fields, with what ``own``, a spec, sets of the others; anything else as it is.

    Another ``name``, ``method`` or ``norm`` than the spec's brings its own defaults: nothing of LARS's suits SGD. An
    ``eps`` brings the ``step_size``, which is a share of it.
    """
    if not isinstance(given, dict) or not isinstance(own, Spec):
        return given
    fields = {name: getattr(own, name) for name in own.model_fields_set}
    if any(name in given and given[name] != getattr(own, name, None) for name in ("name", "method", "norm")):
        return given
    if "eps" in given:
        fields.pop("step_size", None)
    return fields | given


MAX_VERSION = 2**31 - 1
"""Largest number of a model's version: a database's integer."""

Seed = Annotated[int, Field(ge=0, lt=2**63, description="seed of every random choice of the job")]


class TrainingData(Spec):
    """The training split of a data set, or a part of it with the same share of every class."""

    name: Name = Field(description="a built-in or uploaded data set; see GET /datasets")
    subset: int | None = Field(None, ge=1, le=10_000_000, description="images to take, stratified by class; null: all")
    seed: Seed = 0


class LabelledData(TrainingData):
    """Training images of which only some have a label."""

    labels_fraction: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the images whose labels are used, stratified by class; the others are left out, but by "
        "self-training",
    )


def labelled_size(images: int, fraction: float) -> int:
    """How many of so many images have a label that may be used: at least one."""
    return min(images, max(1, round(images * fraction)))


class EvaluationData(TrainingData):
    """A split of a data set, or a stratified part of it."""

    split: Literal["train", "test"] = Field("test", description="split to attack; a claim needs the test split")


class BackboneSpec(Spec):
    """A backbone by its name (``models/backbones``), and its size, which torchvision's and timm's have fixed."""

    name: str = Field(
        "resnet18",
        max_length=100,
        description="a registered backbone, torchvision/<name> or timm/<name>; see GET /backbones",
    )
    width: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="channels of the first stage, each later stage doubles them; null: the named network's own",
    )
    blocks: Annotated[tuple[Annotated[int, Field(ge=1, le=100)], ...], JsonArray] | None = Field(
        None, min_length=1, max_length=4, description="residual blocks a stage; null: the named network's own"
    )
    stem_stride: Literal[1, 2] = Field(1, description="stride of the 3×3 stem; 2 quarters the cost")


class ProjectionSpec(Spec):
    """MLP projection head on the backbone's features, dropped after pretraining."""

    layers: int = Field(2, ge=1, le=8, description="linear layers, ReLU between them")
    dim: int = Field(128, ge=2, le=8192, description="length of the projected vector")


class OptimizerSpec(Spec):
    """Optimizer; defaults are those of C-LEAD's pretraining (SGD 0.9)."""

    name: Literal["sgd", "adam", "adamw", "lars"] = Field(
        "sgd", description="SGD with momentum; Adam; AdamW, which decouples weight decay; LARS for large batches"
    )
    lr: float = Field(0.1, gt=0, le=100, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD and LARS alone")
    weight_decay: float = Field(1e-4, ge=0, le=10, description="factor of the L2 term")
    decay_all: bool = Field(
        True,
        description="decay biases and normalization, too; LARS never does",
    )


class ScheduleSpec(Spec):
    """Learning-rate schedule, stepped after every update."""

    name: Literal["cosine", "constant", "step", "cyclic"] = Field(
        "cosine",
        description="cosine: half a cosine down to 0; step: times `factor` at each of `milestones`; cyclic: a line up "
        "to the peak at `peak` of the training and a line down to 0",
    )
    warmup_epochs: float = Field(0, ge=0, le=100_000, description="epochs of linear warm-up from 0")
    milestones: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], JsonArray] = Field(
        (100 / 110, 105 / 110), max_length=50, description="step alone: shares of the training at which the rate drops"
    )
    factor: float = Field(0.1, gt=0, le=1, description="step alone: what the rate is multiplied by")
    peak: float = Field(0.4, gt=0, lt=1, description="cyclic alone: share of the training at which the rate is highest")


class AugmentationSpec(Spec):
    """Random changes of whole batches, each image its own.

    Supervised trainings crop after zero padding and flip; contrastive ones take SimCLR's (Chen et al. 2020, App. A).
    """

    crop_padding: int = Field(4, ge=0, le=64, description="pixels of zero padding before the random crop; 0: no crop")
    flip: bool = Field(True, description="mirror half of the images")
    crop_area: float = Field(
        1.0, gt=0, le=1, description="smallest share of the area that a crop, resized to the whole, keeps; 1: no crop"
    )
    jitter: float = Field(
        0.0,
        ge=0,
        le=1,
        description="strength s of the colour jitter: brightness, contrast and saturation by up to 0.4 s, hue by "
        "0.1 s of a turn, for 0.8 s of the images",
    )
    gray: float = Field(0.0, ge=0, le=1, description="share of colour images that lose their colour")

    def weaker(self, strength: float) -> AugmentationSpec:
        """The same at ``strength`` in [0, 1]: 1 is as it is, 0 crops and flips at most (Luo et al. 2023, App. A)."""
        changes = {
            "crop_area": 1 - strength * (1 - self.crop_area),
            "jitter": strength * self.jitter,
            "gray": strength * self.gray,
        }
        return self.model_copy(update=changes)


SIMCLR = AugmentationSpec(crop_padding=0, crop_area=0.1, jitter=1.0, gray=0.2)
"""SimCLR's augmentation as contrastive methods use it on CIFAR."""


Precision = Literal["auto", "float32", "bfloat16"]
"""``auto``: bfloat16 autocast where the hardware computes it, else float32. Losses are in float32 either way."""


class ValidationSpec(Spec):
    """Held-out training images on which a training is watched; the test split is never looked at.

    A classifier is attacked as it is; of an encoder the classes' mean features make a classifier for the purpose.
    """

    images: int = Field(
        500,
        ge=10,
        le=100_000,
        description="labelled training images to hold out, stratified; at least one a class, at most a fifth of them",
    )
    every_epochs: float = Field(1.0, gt=0, le=100_000, description="epochs between two looks")
    eps: Pixels = Field(
        8 / 255,
        gt=0,
        le=1_000,
        description="radius of the Linf ball, in pixels of [0, 1]",
        json_schema_extra=pixel_schema(positive=True),
    )
    steps: int = Field(10, ge=1, le=1_000, description="steps of PGD")
    step_size: Pixels = Field(
        2 / 255,
        gt=0,
        le=1_000,
        description="length of a step, in pixels of [0, 1]",
        json_schema_extra=pixel_schema(positive=True),
    )
    keep: Literal["last", "best"] = Field(
        "last", description="best: publish the weights of the best look, by accuracy under PGD"
    )
    patience: int | None = Field(
        None, ge=1, le=100_000, description="stop after so many looks without a better one; null: never"
    )

    @field_validator("eps", "step_size")
    @classmethod
    def _inside_the_pixel_range(cls, length: float) -> float:
        return inside_pixel_range(length)


def most_held_out(known: int) -> int:
    """Of so many labelled images a validation may take this many: a fifth."""
    return known // 5


def held_out_size(known: int, spec: ValidationSpec | None) -> int:
    """How many of so many labelled images are held out."""
    return 0 if spec is None else min(spec.images, most_held_out(known))


class TrainingParams(Spec):
    """Fields that every method of pretraining and training shares; a method's own parameters extend this class."""

    method: str = Field(description="name of the method; see GET /methods")
    backbone: BackboneSpec = BackboneSpec()
    dataset: TrainingData
    init: ModelRef | None = Field(None, description="registered model whose backbone the training starts from")
    epochs: int = Field(200, ge=1, le=100_000, description="passes over the training images")
    batch_size: int = Field(512, ge=2, le=65_536, description="images a step; at most the size of the data")
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    augmentation: AugmentationSpec = AugmentationSpec()
    precision: Precision = Field(
        "auto", description="auto: bfloat16 autocast where the hardware has it; losses are float32"
    )
    validation: ValidationSpec | None = Field(None, description="watch held-out training images; null: do not")
    compile: bool = Field(
        False, description="run the network through torch.compile, which needs a compiler: pays off on long trainings"
    )
    devices: int = Field(
        1,
        ge=1,
        le=64,
        description="devices of one machine that share each batch, which must be a multiple of them; the model is the "
        "one that a single device would give, up to rounding, where no dropout draws and no chunk is cut; on CPUs at "
        "most as many as cores",
    )
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="publish a moving average of the weights with this decay a step, such as 0.999; null: the last",
    )
    seed: Seed = 0

    @field_validator("devices")
    @classmethod
    def _share_alike(cls, devices: int, info: ValidationInfo) -> int:
        batch_size = info.data.get("batch_size")
        if batch_size is not None and batch_size % devices:
            raise ValueError(f"a batch of {batch_size} images cannot be shared alike by {devices} devices")
        return devices

    @property
    def second_norms(self) -> bool:
        """Whether a second set of batch normalization is trained beside the backbone's."""
        return False


MAX_CHANNELS = 16
MAX_CLASSES = 100_000


class ModelCard(Spec):
    """What is needed to rebuild a model from its weights, kept with them and in the registry."""

    kind: Literal["encoder", "classifier"] = Field(description="encoder: features; classifier: logits over classes")
    backbone: BackboneSpec
    image_shape: Annotated[
        tuple[
            Annotated[int, Field(ge=1, le=MAX_CHANNELS)],
            Annotated[int, Field(ge=1, le=4096)],
            Annotated[int, Field(ge=1, le=4096)],
        ],
        JsonArray,
    ] = Field(description="(channels, height, width) of an input image")
    classes: Annotated[tuple[ClassName, ...], JsonArray] | None = Field(
        None, max_length=MAX_CLASSES, description="class names by index; null for an encoder"
    )
    mean: Annotated[tuple[Annotated[float, Field(ge=-1_000, le=1_000)], ...], JsonArray] = Field(
        max_length=MAX_CHANNELS, description="channel means subtracted inside the model, pixels in [0, 1]"
    )
    std: Annotated[tuple[Annotated[float, Field(ge=1e-6, le=1_000)], ...], JsonArray] = Field(
        max_length=MAX_CHANNELS, description="channel deviations divided by inside the model"
    )

    @field_validator("classes")
    @classmethod
    def _each_once(cls, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if classes is not None and len(set(classes)) < len(classes):
            raise ValueError("a class is named twice")
        return classes
