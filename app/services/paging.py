"""Cursor pages, newest first."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.errors import InvalidSpecError

T = TypeVar("T")

DEFAULT_LIMIT = 50
MAX_LIMIT = 200


@dataclass(frozen=True)
class Page(Generic[T]):
    """Items of one page, and the cursor of the next (None: there is none)."""

    items: list[T]
    next_cursor: str | None


def make_cursor(*key: str) -> str:
    """An opaque cursor that stands after the item with this sort key."""
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def read_cursor(cursor: str, *, parts: int = 1) -> list[str]:
    """The sort key in a cursor; InvalidSpecError for anything that :func:`make_cursor` did not make."""
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        json.dumps(key, ensure_ascii=False).encode()  # no database takes half of a surrogate pair
    except (ValueError, RecursionError):
        key = None
    if (
        not isinstance(key, list)
        or len(key) != parts
        or not all(isinstance(part, str) and "\0" not in part for part in key)
    ):
        detail = "not a cursor of this list; take next_cursor of the page before, or leave it out"
        raise InvalidSpecError(detail, errors=[{"pointer": "/cursor", "detail": detail}])
    return key


def take_limit(limit: int) -> int:
    """``limit`` if it is within 1 … MAX_LIMIT, else InvalidSpecError."""
    if not 1 <= limit <= MAX_LIMIT:
        detail = f"limit is {limit}; give 1 to {MAX_LIMIT}"
        raise InvalidSpecError(detail, errors=[{"pointer": "/limit", "detail": detail}])
    return limit
