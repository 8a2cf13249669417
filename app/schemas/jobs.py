"""Bodies of the job routes. What a job may ask for comes from the registries: a new entry shows up by itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidatorFunctionWrapHandler, create_model
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, ValidationError, core_schema

from app.records import JobKind, JobStatus
from app.schemas.results import RESULTS, Failure, shown_as
from app.services.presets import ProtocolParams
from app.services.specs import method_refusal
from models.corruption_spec import CorruptionParams
from models.evaluation_spec import EvaluationParams
from models.methods.spec import METHODS
from models.probe_spec import ProbeParams
from models.references import Name
from models.specs import Spec, TrainingParams

LabelKey = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^:\x00-\x1f]+$")]
LabelValue = Annotated[str, Field(max_length=500, pattern=r"^[^\x00-\x1f]*$")]


class Labelled(Spec):
    """What every job may carry besides its spec."""

    labels: dict[LabelKey, LabelValue] = Field(
        default={}, max_length=50, description="the client's own key: value pairs; GET /jobs?label=key:value finds them"
    )


class Registered(Labelled):
    """What a job that makes a model may carry besides its spec."""

    register_as: Name | None = Field(
        None,
        description="name in the registry for the model that the job makes; null: made from method, backbone and "
        "data set, or from the probed model's name",
    )


class ProbeBody(Registered, ProbeParams):
    """Body of POST /jobs/probe."""


class EvaluateBody(Labelled, EvaluationParams):
    """Body of POST /evaluate."""


class CorruptionsBody(Labelled, CorruptionParams):
    """Body of POST /evaluate/corruptions."""


class ProtocolBody(Labelled, ProtocolParams):
    """Body of POST /jobs/protocol."""


@dataclass(frozen=True)
class MethodUnion:
    """The parameters of every registered method of one kind, told apart by ``method``.

    Errors carry the locations of the client's own JSON: no step for the member of the union.
    """

    kind: Literal["pretrain", "train"]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        bodies = method_bodies(self.kind)
        tagged = core_schema.tagged_union_schema(
            {name: handler.generate_schema(body) for name, body in bodies.items()}, discriminator="method"
        )

        def validate(value: Any, inner: ValidatorFunctionWrapHandler) -> Any:
            if not isinstance(value, dict):
                return inner(value)
            name = value.get("method")
            if not isinstance(name, str) or name not in bodies:
                raise _unknown_method(name, kind=self.kind)
            return bodies[name].model_validate(value)

        return core_schema.no_info_wrap_validator_function(validate, tagged)


def method_bodies(kind: Literal["pretrain", "train"]) -> dict[str, type[TrainingParams]]:
    """Method → its parameters with ``register_as`` and ``labels``."""
    return {entry.name: _body_of(entry.params) for entry in METHODS.entries() if entry.kind == kind}


@cache
def _body_of(params: type[TrainingParams]) -> type[TrainingParams]:
    name = params.__name__.removesuffix("Params") + "Body"
    bases: tuple[type[Any], ...] = (Registered, params)
    body: Any = create_model(name, __base__=bases, __doc__=params.__doc__)
    return cast(type[TrainingParams], body)


def _unknown_method(name: Any, *, kind: str) -> ValidationError:
    told = PydanticCustomError("unknown_method", "{message}", {"message": method_refusal(name, kind=kind)})
    return ValidationError.from_exception_data("method", [InitErrorDetails(type=told, loc=("method",), input=name)])


PretrainBody = Annotated[TrainingParams, MethodUnion("pretrain")]
TrainBody = Annotated[TrainingParams, MethodUnion("train")]


class Progress(BaseModel):
    """How far a running job is."""

    model_config = ConfigDict(extra="allow")

    done: int | float = Field(ge=0, description="units done")
    total: int | float = Field(ge=0, description="units in all")
    unit: str = Field(description="what is counted: step, epoch, image, …")
    eta_seconds: float | None = Field(None, description="estimate of the seconds left; null: not known yet")
    stage: str | None = Field(None, description="what the job does now: attack, train, an attack's name, …")


class JobView(BaseModel):
    """A run: what was asked, how far it is, and what came out."""

    id: str = Field(description="opaque, sortable by time of creation")
    kind: JobKind = Field(description="what the job does; a shard and a merge are parts of an evaluation")
    status: JobStatus = Field(description="succeeded, failed and cancelled are final until a resume")
    spec: dict[str, Any] = Field(description="as resolved: every default written out; posting it again repeats the run")
    progress: Progress | None = Field(None, description="null before the first report")
    result: dict[str, Any] | None = Field(
        None,
        description="what came out, by `kind`; null until the job succeeded. Accuracies are fractions in [0, 1]",
        json_schema_extra=shown_as(*RESULTS.values(), or_else={"type": "null"}),
    )
    error: dict[str, Any] | None = Field(
        None,
        description="why the job failed; null: it did not",
        json_schema_extra=shown_as(Failure, or_else={"type": "null"}),
    )
    attempt: int = Field(ge=0, description="how many times a worker has begun it")
    parent: str | None = Field(None, description="the protocol or evaluation that this one is a step of")
    step: str | None = Field(None, description="which step of its parent it is")
    children: list[str] = Field([], description="the steps so far of a protocol, the shards of a large evaluation")
    account: str | None = Field(None, description="name of the token that submitted it; null: none was asked for")
    labels: dict[str, str] = Field({}, description="the client's own key: value pairs")
    created_at: str = Field(description="ISO 8601, UTC")
    started_at: str | None = Field(None, description="when it, or a job of its own, first began; ISO 8601, UTC")
    finished_at: str | None = Field(None, description="when it became final; ISO 8601, UTC")


class JobPage(BaseModel):
    """One page of jobs, newest first."""

    items: list[JobView] = Field(description="the jobs of this page")
    next_cursor: str | None = Field(description="`cursor` of the next page; null: this is the last")


class MetricSeries(BaseModel):
    """Metrics that a job reported."""

    series: dict[str, list[tuple[int, float]]] = Field(description="name → [step, value] pairs by step")


class Example(BaseModel):
    """One evaluated image before and after an attack."""

    model_config = ConfigDict(extra="allow")

    index: int = Field(ge=0, description="position of the image among those evaluated on")
    label: str = Field(description="its true class")
    clean_prediction: str = Field(description="the class that the model sees in the image as it was")
    adversarial_prediction: str = Field(description="the class that it sees in the attacked image")
    attack: str = Field(description="the attack that is shown")
    linf: float = Field(ge=0, le=1, description="Linf norm of the perturbation, pixels in [0, 1]")
    l2: float = Field(ge=0, description="L2 norm of the perturbation, pixels in [0, 1]")
    survives_8bit: bool | None = Field(
        None, description="still wrong after rounding to 8 bits; null: the attack did not break the image"
    )
    clean: str = Field(description="link to the PNG of the image as it was")
    adversarial: str = Field(description="link to the PNG of the attacked image")
    difference: str = Field(description="link to the PNG of the difference × 10; mid-grey is no change")


class Examples(BaseModel):
    """Examples kept by an evaluation."""

    items: list[Example] = Field(description="a random sample of the attacked images")
    file: str | None = Field(None, description="link to the exact pixels, safetensors; null: none are kept")
    pruned_at: str | None = Field(
        None, description="when the examples were removed to save space; ISO 8601, UTC; null: they were not"
    )
