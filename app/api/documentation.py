"""What /openapi.json says beyond the routes: the introduction, and the problem that every error answer is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from app.schemas.problems import MEANINGS, MEDIA_TYPE, FieldError, Problem, problem_responses

DESCRIPTION = """\
Robust image classification as a service: **train** → **probe** → **attack** → **compare** → **serve**.

Times are ISO 8601 in UTC, durations seconds, accuracies fractions in [0, 1]. Pixels live in [0, 1]; perturbation sizes
are given in that scale, as a number (`0.03137`) or a fraction (`"8/255"`). Unknown fields and query parameters
are refused. Every error is `application/problem+json` (RFC 9457). A `POST` that creates something accepts
`Idempotency-Key`.
"""


def install(app: FastAPI) -> None:
    """Add the problem's schema to the document, and let every error answer refer to it."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(generate())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for model in (Problem, FieldError):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schema.pop("$defs", None)
        schemas[model.__name__] = schema
    # FastAPI's own description of a validation error is of a body that this service never sends.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    reference = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            answers = operation["responses"]
            if "422" in answers:
                answers["422"] |= {"description": MEANINGS[422], "content": reference}
            for status in _statuses(path, operation):
                answers.setdefault(str(status), problem_responses(status)[status])
    return document


def _statuses(path: str, operation: dict[str, Any]) -> Iterator[int]:
    """What an operation may answer by its kind alone."""
    yield 500
    if "{" in path:
        yield 404
    if "requestBody" in operation:
        yield from (400, 413, 415)
        if "multipart/form-data" in operation["requestBody"]["content"]:  # files are kept on the disk meanwhile
            yield 507
    if "security" in operation:  # who is asking is looked up in the database
        yield 503
