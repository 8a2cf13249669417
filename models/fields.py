"""Kinds of fields that specs share: sizes in pixels, arrays, and names of classes."""

from __future__ import annotations

import math
import unicodedata
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

JsonArray = Strict(False)
"""Marks a tuple: JSON writes it as an array, which is not the strict kind of it. Its items stay strict."""

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_label(text: str) -> str:
    """``text`` if it can name a class: one visible line; ValueError for controls, half surrogates, turned writing."""
    if any(unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") or one in _BIDI for one in text):
        raise ValueError("control characters, line breaks and marks that turn the writing's direction are not accepted")
    return text


MAX_LABEL = 200
ClassName = Annotated[str, Field(max_length=MAX_LABEL), AfterValidator(check_label)]
"""Name of a class."""
