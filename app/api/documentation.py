"""What /openapi.json says beyond the routes: the introduction, the problem that every error answer is, the results of
jobs, and answers of a real service as examples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from app.schemas.problems import MEANINGS, MEDIA_TYPE, problem_responses
from app.schemas.results import REFERRED

REFERENCE = "#/components/schemas/{model}"

DESCRIPTION = """\
Robust image classification as a service: **train** → **probe** → **attack** → **compare** → **serve**.

Times are ISO 8601 in UTC, durations seconds, accuracies fractions in [0, 1]. Pixels live in [0, 1]; perturbation sizes
are given in that scale, as a number (`0.03137`) or a fraction (`"8/255"`). Unknown fields and query parameters
are refused. Every error is `application/problem+json` (RFC 9457). A `POST` that creates something accepts
`Idempotency-Key`.
"""


def install(app: FastAPI) -> None:
    """Complete the document that FastAPI makes of the routes."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(generate())
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    _, own = models_json_schema([(model, "validation") for model in REFERRED], ref_template=REFERENCE)
    schemas |= own["$defs"]
    # FastAPI's own description of a validation error is of a body that this service never sends.
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    reference = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    recorded = answers_recorded()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = operation["responses"]
            if "422" in answers:
                answers["422"] |= {"description": MEANINGS[422], "content": reference}
            for status in _statuses(path, operation):
                answers.setdefault(str(status), problem_responses(status)[status])
            for media_type, examples in recorded.get(f"{method.upper()} {path}", {}).items():
                shown = {name: {"value": value} for name, value in examples.items()}
                next(_good(answers))["content"][media_type]["examples"] = shown
    return document


def answers_recorded() -> dict[str, dict[str, dict[str, Any]]]:
    """Operation → media type → name → what a real service answered; written by `python -m tests.system.tour`."""
    found: dict[str, Any] = json.loads((files("app.schemas") / "answers.json").read_text(encoding="utf-8"))
    return found


def _good(answers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (answer for status, answer in answers.items() if status.startswith("2") and "content" in answer)


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
