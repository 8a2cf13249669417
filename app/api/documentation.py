"""What /openapi.json says beyond the routes: the introduction, and the problem that every error answer is."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from app.schemas.problems import MEANINGS, MEDIA_TYPE, FieldError, Problem

DESCRIPTION = """\
Robust image classification as a service: **train** → **probe** → **attack** → **compare** → **serve**.

Times are ISO 8601 in UTC, durations seconds, accuracies fractions in [0, 1]. Pixels live in [0, 1]; perturbation sizes
are given in that scale, as a number (`0.03137`) or a fraction (`"8/255"`). Unknown fields are refused. Every error is
`application/problem+json` (RFC 9457). A `POST` that creates something accepts `Idempotency-Key`.
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
    for path in document["paths"].values():
        for operation in path.values():
            answer = operation["responses"].get("422")
            if answer is not None:
                answer |= {"description": MEANINGS[422], "content": reference}
            operation["responses"]["500"] = {"description": "An error inside the service.", "content": reference}
    return document
