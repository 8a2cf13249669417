"""The OpenAPI document: an example of every operation, that fits its own schema, and a description of every field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.main import create_app
from app.settings import Settings
from tests.contract import Contract

FILES = {"application/octet-stream", "image/png"}
"""Whose bytes are no example for a reader; the answers' descriptions tell what is in them."""
SILENT = (
    "DELETE /models/{name}",
    "DELETE /models/{name}/aliases/{alias}",
    "DELETE /models/{name}/versions/{version}",
    "GET /jobs/{job_id}/examples.safetensors",
    "GET /jobs/{job_id}/examples/{index}/{part}.png",
    "GET /models/{name}/versions/{version}/weights",
)
"""Operations that answer nothing, or a file."""


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(Settings(home=tmp_path_factory.mktemp("home"))).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, found in document["paths"].items():
        for method, operation in found.items():
            yield f"{method.upper()} {path}", operation


def bodies(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Media type and content of the request, and of the good answers."""
    yield from operation.get("requestBody", {}).get("content", {}).items()
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            yield from answer.get("content", {}).items()


def examples(content: dict[str, Any]) -> list[Any]:
    """Of a body: its own, and those of its schema."""
    named = [example["value"] for example in content.get("examples", {}).values()]
    own = [content["example"]] if "example" in content else []
    return named + own + content["schema"].get("examples", [])


def test_every_operation_has_an_example(document: dict[str, Any]) -> None:
    without = [
        name
        for name, operation in operations(document)
        if not any(examples(content) for media_type, content in bodies(operation))
    ]
    assert sorted(without) == sorted(SILENT)
    for name, operation in operations(document):
        assert name not in SILENT or all(media_type in FILES for media_type, _ in bodies(operation)), name


def test_every_example_fits_its_schema(document: dict[str, Any]) -> None:
    contract = Contract(document)
    wrong, seen = {}, 0
    for name, operation in operations(document):
        for media_type, content in bodies(operation):
            for example in examples(content):
                seen += 1
                if errors := contract.errors(example, content["schema"]):
                    wrong[name, media_type] = errors
    for name, schema in document["components"]["schemas"].items():
        if errors := contract.errors(schema.get("example"), schema if "example" in schema else {}):
            wrong[name, "schema"] = errors
    assert wrong == {}
    assert seen > 40


def fields(part: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property and every parameter in a part of the document, with where it is."""
    if isinstance(part, list):
        for index, item in enumerate(part):
            yield from fields(item, f"{where}/{index}")
    if not isinstance(part, dict):
        return
    if isinstance(part.get("in"), str) and "schema" in part:
        yield f"{where} {part['name']}", part
    for name, field in part["properties"].items() if isinstance(part.get("properties"), dict) else ():
        yield f"{where}/{name}", field
    for key, inner in part.items():
        if key not in ("example", "examples", "default"):
            yield from fields(inner, f"{where}/{key}")


def test_every_field_has_a_description(document: dict[str, Any]) -> None:
    """Its own, or that of the object that it is."""
    schemas = document["components"]["schemas"]
    without = [
        where
        for where, field in fields(document)
        if not (
            field.get("description") or schemas.get(field.get("$ref", "").rpartition("/")[2], {}).get("description")
        )
    ]
    assert without == []
    names = {where.rpartition("/")[2] for where, _ in fields(document)}
    assert {"robust_accuracy", "worst_case_accuracy", "best_step", "survives_8bit", "before"} <= names


def test_what_a_job_answers_is_told_by_its_kind(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    options = [
        option.get("$ref", "").rpartition("/")[2] for option in schemas["JobView"]["properties"]["result"]["anyOf"]
    ]
    assert {"TrainingResult", "ProbeResult", "EvaluationResult", "CorruptionsResult", "ProtocolResult"} <= set(options)
    table = document["paths"]["/compare"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert table == {"$ref": "#/components/schemas/Comparison"}
