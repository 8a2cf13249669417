"""Pointers into what the client sent."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel

from app.schemas.locations import pointer, unknown_field


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


class Shape(BaseModel):
    name: str
    area: float = 1


class Circle(Shape):
    name: Literal["circle"] = "circle"
    radius: float = 1


class Square(Shape):
    name: Literal["square"] = "square"
    side: float = 1


class Drawing(BaseModel):
    shapes: list[Shape] = []
    scale: float = 1


class Tall(Shape):
    """A base of other shapes, none of which is left out of a registry."""

    height: float = 1


class Tower(Tall):
    name: Literal["tower"] = "tower"


@pytest.mark.parametrize(
    ("location", "value", "says"),
    [
        (("scael",), {"scael": 1}, "did you mean 'scale'?"),
        (("shapes", 0, "radios"), {"shapes": [{"name": "circle", "radios": 1}]}, "did you mean 'radius'?"),
        (("shapes", 0, "radios"), {"shapes": [{"name": "square", "radios": 1}]}, "known: area, name, side"),
        (("shapes", 0, "radius"), {"shapes": [{"name": "square", "radius": 1}]}, "known: area, name, side"),
        (("shapes", 0, "height"), {"shapes": [{"name": "square", "height": 1}]}, "known: area, name, side"),
        (("shapes", 0, "hight"), {"shapes": [{"name": "tower", "hight": 1}]}, "did you mean 'height'?"),
        (("shapes", 0, "steps"), {"shapes": [{"name": "square", "steps": 1}]}, "known: area, name, side"),
        (("shapes", 0, "zzz"), {"shapes": [{"name": "circle", "zzz": 1}]}, "known: area, name, radius"),
        (("shapes", 0, "zzz"), {"shapes": [{"name": "oval", "zzz": 1}]}, "known: area, height, name"),
    ],
)
def test_the_nearest_field_of_the_same_object_is_suggested_or_all_are_told(
    location: Any, value: Any, says: str
) -> None:
    assert unknown_field(location, value, [Drawing]) == f"unknown field; {says}"


def test_a_name_that_is_no_text_is_no_model_of_any() -> None:
    value = {"shapes": [{"name": ["unhashable"], "radios": 1}]}
    assert unknown_field(("shapes", 0, "radios"), value, [Drawing]).startswith("unknown field; ")
