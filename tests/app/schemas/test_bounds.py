"""Every value that a client may send has a bound, and the documents that clients read say it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.main import create_app
from app.settings import Settings
from models.specs import ModelCard

LEAST, MOST = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}
LARGEST_NUMBER = 2**63
BINARY = ("format", "contentMediaType")
"""A file: its bytes are counted while they arrive, see BodyLimit."""


def unbounded(schema: dict[str, Any], where: str, *, definitions: dict[str, Any], seen: set[str]) -> Iterator[str]:
    """Where, in the schema of a request, a number, text, array or map may be as large as it likes."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name not in seen:
            seen.add(name)
            yield from unbounded(definitions[name], name, definitions=definitions, seen=seen)
        return
    if not {"enum", "const"} & schema.keys():
        yield from own(schema, where)
    inner = {key: schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)}
    inner |= {f"/{name}": found for name, found in schema.get("properties", {}).items()}
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        inner |= {f"{key}[{index}]": found for index, found in enumerate(schema.get(key, []))}
    for key, found in inner.items():
        yield from unbounded(found, f"{where}{key}", definitions=definitions, seen=seen)


def own(schema: dict[str, Any], where: str) -> Iterator[str]:
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if {"integer", "number"} & set(types):
        bounds = [abs(schema[key]) for key in LEAST | MOST if key in schema]
        if not (LEAST & schema.keys() and MOST & schema.keys()) or max(bounds) > LARGEST_NUMBER:
            yield f"{where}: a number"
    if "string" in types and "maxLength" not in schema and not any(key in schema for key in BINARY):
        yield f"{where}: text"
    if "array" in types and "maxItems" not in schema:
        yield f"{where}: an array"
    if isinstance(schema.get("additionalProperties"), dict) and "maxProperties" not in schema:
        yield f"{where}: a map"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(Settings(home=tmp_path_factory.mktemp("home"))).openapi()


def test_everything_that_a_request_may_hold_is_bounded(document: dict[str, Any]) -> None:
    definitions, seen = document["components"]["schemas"], set[str]()
    found, values = [], 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parameters = {f"{one['in']} {one['name']}": one["schema"] for one in operation.get("parameters", [])}
            bodies = operation.get("requestBody", {}).get("content", {})
            schemas = parameters | {kind: body["schema"] for kind, body in bodies.items()}
            values += len(schemas)
            for name, schema in schemas.items():
                found += unbounded(schema, f"{method} {path} {name} ", definitions=definitions, seen=seen)
    assert found == []
    assert values > 50 and {"CLeadBody", "EvaluateBody", "ProbeBody"} <= seen, "the walk has seen the document"


def test_a_models_card_is_bounded() -> None:
    schema = ModelCard.model_json_schema()
    assert list(unbounded(schema, "card", definitions=schema["$defs"], seen=set())) == []


def test_the_walk_finds_what_has_no_bound() -> None:
    schema = {
        "properties": {
            "half": {"type": "integer", "minimum": 0},
            "text": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "list": {"type": "array", "items": {"type": "number"}},
            "map": {"type": "object", "additionalProperties": {"const": 1}},
            "chosen": {"type": "string", "enum": ["a"]},
        }
    }
    found = [one.rpartition(": ")[2] for one in unbounded(schema, "", definitions={}, seen=set())]
    assert sorted(found) == ["a map", "a number", "a number", "an array", "text"]


def test_every_operation_says_what_it_may_answer(document: dict[str, Any]) -> None:
    """The ones that anything may answer: see tests/fuzz for the rest."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert "500" in operation["responses"], (method, path)
            if "requestBody" in operation:
                assert {"400", "413", "415", "422"} <= operation["responses"].keys(), (method, path)
