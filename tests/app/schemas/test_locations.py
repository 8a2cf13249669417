"""Pointers into what the client sent."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel

from app.schemas.locations import pointer, suggestion


@pytest.mark.parametrize(
    ("location", "value", "expected"),
    [
        ((), {}, ""),
        (("a",), {"a": 1}, "/a"),
        (("a",), {}, "/a"),
        (("a", 0, "b"), {"a": [{"b": 1}]}, "/a/0/b"),
        (("a", 0, "pgd", "eps"), {"a": [{"eps": 1}]}, "/a/0/eps"),
        (("a", "function-after[f(), str]"), {"a": 1}, "/a"),
        (("a/b", "c~d"), {"a/b": {"c~d": 1}}, "/a~1b/c~0d"),
        (("a", 3), {"a": [1]}, "/a"),
        (("a", "[key]"), {"a": 1}, "/a"),
    ],
)
def test_steps_that_the_client_did_not_write_are_left_out(location: Any, value: Any, expected: str) -> None:
    assert pointer(location, value) == expected


class Circle(BaseModel):
    name: Literal["circle"] = "circle"
    radius: float = 1


class Square(BaseModel):
    name: Literal["square"] = "square"
    side: float = 1


class Drawing(BaseModel):
    shapes: list[Circle | Square] = []
    scale: float = 1


@pytest.mark.parametrize(
    ("location", "value", "expected"),
    [
        (("scael",), {"scael": 1}, "scale"),
        (("shapes", 0, "radios"), {"shapes": [{"name": "circle", "radios": 1}]}, "radius"),
        (("shapes", 0, "radios"), {"shapes": [{"name": "square", "radios": 1}]}, None),
        (("shapes", 0, "zzz"), {"shapes": [{"name": "circle", "zzz": 1}]}, None),
        (("shapes", 0, "radios"), {"shapes": [{"name": ["unhashable"], "radios": 1}]}, None),
    ],
)
def test_the_nearest_field_of_the_same_object_is_suggested(location: Any, value: Any, expected: str | None) -> None:
    assert suggestion(location, value, [Drawing]) == expected
