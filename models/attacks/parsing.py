"""An attack's parameters as a client writes them, read by the registered attack that they name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from models.attacks.spec import ATTACKS, Attack, AttackParams

_CW_BY_NORM = {"linf": "cw-linf", "l2": "cw-l2"}


def _any(attack: Attack) -> bool:
    del attack
    return True


def parse_attack(value: Any, *, fits: Callable[[Attack], bool] = _any) -> AttackParams:
    """The validated parameters of the registered attack that ``value["name"]`` names, one of those that ``fits``.

    ``{"name": "cw", "norm": "l2" | "linf", ...}`` is CW-L2 or CW-Linf; CW without a norm is refused, since the two
    measure different things. Raises ValidationError; its locations are those of the client's JSON (``("eps",)``, no
    discriminator tag), to which pydantic prepends where the attack stands (``("attacks", 0, "eps")``).
    """
    if isinstance(value, AttackParams):
        _known(value.name, fits)
        return value
    if not isinstance(value, dict):
        raise refusal((), value, 'give an object such as {"name": "pgd", "eps": "8/255"}')
    name, norm = value.get("name"), value.get("norm")
    if name == "cw":
        if not isinstance(norm, str) or norm not in _CW_BY_NORM:
            raise refusal(("norm",), norm, 'cw needs its norm: "linf" (cw-linf) or "l2" (cw-l2)')
        name = _CW_BY_NORM[norm]
    return _known(name, fits).params.model_validate({**value, "name": name})


def _known(name: Any, fits: Callable[[Attack], bool]) -> Attack:
    """The registered attack called ``name``; ValidationError where there is none or it does not fit."""
    fitting = {entry.name: entry for entry in ATTACKS.entries() if fits(entry)}
    if isinstance(name, str) and name in fitting:
        return fitting[name]
    what = "not an attack that fits here" if isinstance(name, str) and name in ATTACKS else "not an attack"
    raise refusal(("name",), name, f"{shown(name)} is {what}; known: {', '.join(fitting)}")


@dataclass(frozen=True)
class AnyAttack:
    """Annotates a field that takes any registered attack that ``fits``; new attacks need no change here."""

    fits: Callable[[Attack], bool] = _any

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(partial(parse_attack, fits=self.fits))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        fitting = [entry.params for entry in ATTACKS.entries() if self.fits(entry)]
        options = [one.__get_pydantic_json_schema__(one.__pydantic_core_schema__, handler) for one in fitting]
        options += [_as_cw(one) for one in options if one["properties"]["name"]["const"] in _CW_BY_NORM.values()]
        return {"oneOf": options, "discriminator": {"propertyName": "name"}}


def _as_cw(option: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of CW-L2 or CW-Linf under its other name."""
    name = {**option["properties"]["name"], "const": "cw", "description": "with this name, `norm` must be given"}
    del name["default"]
    return {**option, "properties": {**option["properties"], "name": name}, "required": ["name", "norm"]}


def refusal(location: tuple[str | int, ...], value: Any, message: str) -> ValidationError:
    """A validation error at ``location`` below the value being validated."""
    return ValidationError.from_exception_data("attack", [detail(location, value, message)])


def detail(location: tuple[str | int, ...], value: Any, message: str) -> InitErrorDetails:
    """One error of a :class:`ValidationError`."""
    # The message goes in as a value: a brace in a client's text must not be read as a placeholder.
    kind = PydanticCustomError("invalid_spec", "{message}", {"message": message})
    return InitErrorDetails(type=kind, loc=location, input=value)


def shown(value: Any) -> str:
    """A client's value for a message: quoted, and never long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
