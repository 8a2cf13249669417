"""Kinds of fields that specs share: sizes in pixels, arrays, and names of classes."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, Strict


def parse_fraction(value: Any) -> Any:
    """Turn ``"8/255"`` into 8/255; leave numbers to pydantic; refuse anything else with what would be accepted."""
    accepted = 'give a number such as 0.03137 or a fraction such as "8/255"'
    if isinstance(value, bool):
        raise ValueError(accepted)
    if not isinstance(value, str):
        return value
    if len(value) > 40:
        raise ValueError(accepted)
    numerator, _, denominator = value.partition("/")
    try:
        # Floats and not exact fractions: those would write out every digit of "1e999999999".
        top, bottom = float(numerator), float(denominator or "1")
        number = top / bottom
    except ZeroDivisionError:
        raise ValueError(f"{value!r} divides by zero; {accepted}") from None
    except ValueError:
        raise ValueError(f"{value!r} is not a number; {accepted}") from None
    if not all(map(math.isfinite, (top, bottom, number))):
        raise ValueError(f"{value!r} is not finite; {accepted}")
    return number


Pixels = Annotated[float, BeforeValidator(parse_fraction, json_schema_input_type=float | str)]
"""A size in pixels of [0, 1], or its fraction as text."""


def inside_pixel_range(length: float) -> float:
    """``length`` of an Linf ball or step if it is at most 1; ValueError with how 8-bit steps are written."""
    if length > 1:
        raise ValueError(f'pixels lie in [0, 1], so an linf radius is at most 1; 8-bit steps are "{length:g}/255"')
    return length


def pixel_schema(*, positive: bool = False, null: bool = False) -> Callable[[dict[str, Any]], None]:
    """JSON schema of a ``Pixels`` field up to 1,000, since pydantic drops the bounds of such a field from its own."""

    def rewrite(schema: dict[str, Any]) -> None:
        for key in ("ge", "gt", "le"):
            schema.pop(key, None)
        number: dict[str, Any] = {"type": "number", "exclusiveMinimum" if positive else "minimum": 0, "maximum": 1_000}
        text: dict[str, Any] = {"type": "string", "maxLength": 40, "examples": ["8/255"]}
        schema["anyOf"] = [number, text, *([{"type": "null"}] if null else [])]

    return rewrite


JsonArray = Strict(False)
"""Marks a tuple: JSON writes it as an array, which is not the strict kind of it. Its items stay strict."""

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_label(text: str) -> str:
    """``text`` if it can name a class: one visible line; ValueError for controls, half surrogates, turned writing."""
    if any(unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") or one in _BIDI for one in text):
        raise ValueError("control characters, line breaks and marks that turn the writing's direction are not accepted")
    return text


ChunkSize = Annotated[
    int | None,
    Field(
        ge=2,
        le=65_536,
        description="images a pass through the network, all views counted, where a batch does not fit into memory: "
        "about one pass more for each update, and batch normalization by the pass (of each device); null: all in one",
    ),
]
"""How a contrastive training's batch is cut for the network."""
MAX_LABEL = 200
ClassName = Annotated[str, Field(max_length=MAX_LABEL), AfterValidator(check_label)]
"""Name of a class."""
