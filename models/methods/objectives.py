"""What another method minimizes, as a client writes it, read by the registered method that it names."""

from __future__ import annotations

from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from models.attacks.parsing import refusal, shown
from models.methods.spec import METHODS, Objective


def parse_objective(value: Any) -> Objective:
    """The validated objective of the registered adversarial method that ``value["method"]`` names.

    Raises ValidationError; its locations are those of the client's JSON, as :func:`parse_attack`'s are.
    """
    if isinstance(value, Objective):
        return value
    if not isinstance(value, dict):
        raise refusal((), value, 'give an object such as {"method": "pgd-at", "attack": {"eps": "8/255"}}')
    name, known = value.get("method"), _known()
    if not isinstance(name, str) or name not in known:
        raise refusal(
            ("method",), name, f"{shown(name)} is no adversarial training of a classifier; known: {', '.join(known)}"
        )
    return known[name].model_validate(value)


def _known() -> dict[str, type[Objective]]:
    return {entry.name: entry.objective for entry in METHODS.entries() if entry.objective is not None}


class AnyObjective:
    """Annotates a field that takes the objective of any registered method; new methods need no change here."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(parse_objective)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        options = [handler(objective.__pydantic_core_schema__) for objective in _known().values()]
        return {"oneOf": options, "discriminator": {"propertyName": "method"}}
