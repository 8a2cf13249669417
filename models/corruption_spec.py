"""What ``POST /evaluate/corruptions`` may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from models.corruptions.spec import CORRUPTIONS, SEVERITIES
from models.references import ModelRef
from models.specs import EvaluationData, Seed, Spec

CorruptionName = Annotated[str, Field(max_length=100)]
Severity = Annotated[int, Field(ge=SEVERITIES[0], le=SEVERITIES[-1])]


class CorruptionParams(Spec):
    """Corrupt the images of a part of a data set and count what a classifier still gets right."""

    model: ModelRef = Field(description="a registered classifier")
    dataset: EvaluationData
    corruptions: list[CorruptionName] = Field(
        default=None,
        validate_default=True,
        min_length=1,
        max_length=100,
        description="corruptions, each on its own; see GET /corruptions; null: all of them",
        json_schema_extra=lambda schema: schema.update(type=["array", "null"]),
    )
    severities: list[Severity] = Field(
        default=list(SEVERITIES), min_length=1, max_length=len(SEVERITIES), description="strengths, 1 to 5"
    )
    batch_size: int = Field(500, ge=1, le=10_000, description="images at a time; does not change the result")
    seed: Seed = 0

    @field_validator("corruptions", mode="before")
    @classmethod
    def _all_of_them(cls, names: Any) -> Any:
        return list(CORRUPTIONS) if names is None else names

    @model_validator(mode="after")
    def _known_and_named_once(self) -> Self:
        errors = [
            *self._unknown(),
            *_repeated("corruptions", self.corruptions),
            *_repeated("severities", self.severities),
        ]
        if errors:
            raise ValidationError.from_exception_data(type(self).__name__, errors)
        return self

    def _unknown(self) -> Iterator[InitErrorDetails]:
        for index, name in enumerate(self.corruptions):
            if name not in CORRUPTIONS:
                message = f"{name!r} is not a corruption; known: {', '.join(CORRUPTIONS)}"
                yield _detail(("corruptions", index), name, message)


def _repeated(field: str, values: list[Any]) -> Iterator[InitErrorDetails]:
    for index, value in enumerate(values):
        first = values.index(value)
        if first < index:
            yield _detail((field, index), value, f"{value!r} stands at /{field}/{first} already; give it once")


def _detail(location: tuple[str | int, ...], value: Any, message: str) -> InitErrorDetails:
    # The message goes in as a value: a brace in a client's text must not be read as a placeholder.
    kind = PydanticCustomError("invalid_spec", "{message}", {"message": message})
    return InitErrorDetails(type=kind, loc=location, input=value)
