"""What `result` and `error` of a job are, by its kind, and how the document refers to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from app.records import JobKind
from app.schemas.figures import Figures, ProbeResult, ProtocolResult, TrainingResult
from app.schemas.measurements import CorruptionsResult, EvaluationResult, ShardResult
from app.schemas.problems import Problem


class Failure(BaseModel):
    """Why a job failed: a problem without a status, since no request failed."""

    type: str = Field(description="about:blank: the title says what kind it is")
    title: str = Field(description="the kind of problem in a few words")
    detail: str = Field(description="what went wrong")


RESULTS: Mapping[JobKind, type[BaseModel]] = {
    "pretrain": TrainingResult,
    "train": TrainingResult,
    "probe": ProbeResult,
    "evaluate": EvaluationResult,
    "corruptions": CorruptionsResult,
    "protocol": ProtocolResult,
    "shard": ShardResult,
    "merge": EvaluationResult,
}

REFERRED: tuple[type[BaseModel], ...] = (*dict.fromkeys(RESULTS.values()), Figures, Failure, Problem)
"""Models that no route answers by itself: the document has them because fields and error answers refer to them."""


def shown_as(*models: type[BaseModel], or_else: Mapping[str, Any]) -> dict[str, Any]:
    """``json_schema_extra`` of a field that is any of ``models`` or ``or_else``, and is not validated as such.

    What other versions of the service wrote must stay readable.
    """
    options = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in dict.fromkeys(models)]
    return {"anyOf": [*options, dict(or_else)]}
