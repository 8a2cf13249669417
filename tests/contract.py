"""The OpenAPI document as a strict contract: what an answer holds, and the document does not tell of, is an error."""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator


def closed(schema: Any) -> Any:
    """A copy in which an object has no properties but those that it tells of."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict):
        copy.setdefault("additionalProperties", False)
    return copy


class Contract:
    """Values against the closed schemas of a document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._components = closed(document["components"])

    def errors(self, value: Any, schema: dict[str, Any]) -> list[str]:
        """What is wrong with ``value``, with where it is; empty if nothing."""
        validator = Draft202012Validator({**closed(schema), "components": self._components})
        return [told for error in validator.iter_errors(value) for told in _told(error)]

    def answer_errors(self, value: Any, *, operation: str, status: int, media_type: str) -> list[str]:
        """As :meth:`errors`, of an answer to ``operation`` (such as ``GET /jobs``)."""
        method, _, path = operation.partition(" ")
        answer = self.document["paths"][path][method.lower()]["responses"][str(status)]
        return self.errors(value, answer["content"][media_type]["schema"])


def _told(error: Any) -> list[str]:
    """The errors inside the member of a union that comes nearest, else the error itself."""
    if not error.context:
        return [f"{error.json_path}: {error.message[:300]}"]
    members: dict[int, list[Any]] = {}
    for inner in error.context:
        members.setdefault(inner.schema_path[0], []).append(inner)
    nearest = min(members.values(), key=lambda found: (found[0].validator in ("type", "required"), len(found)))
    return [told for inner in nearest for told in _told(inner)]
