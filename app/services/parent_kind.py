"""What a kind of job whose children do the work has to say about itself; :mod:`app.services.parents` does the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from app.records import Job

Finished = Mapping[str, Job]
"""Step key → child that has succeeded."""


class Resolved(NamedTuple):
    """What a child is added with."""

    spec: Mapping[str, Any]
    register_as: str | None = None


@dataclass(frozen=True)
class Step:
    """One child: its kind, the steps that must have succeeded before it, and its spec once they have."""

    key: str
    kind: str
    needs: tuple[str, ...]
    resolve: Callable[[Session, Finished], Resolved]


class ChildState(NamedTuple):
    """What is to be known of a child in order to tell how far its parent is."""

    kind: str
    step: str
    status: str
    progress: Mapping[str, Any] | None
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True)
class ParentKind:
    """One kind of parent.

    ``divides``: whether a job of this spec is a parent at all. ``total``: of its progress. ``steps``: inputs before
    users. ``conclude``: write the parent's result, all steps being there. ``progress``: from children and total.
    """

    divides: Callable[[Session, Mapping[str, Any]], bool]
    total: Callable[[Session, Job], int]
    steps: Callable[[Session, Job], Sequence[Step]]
    conclude: Callable[[Session, Job, Finished], None]
    progress: Callable[[Sequence[ChildState], int], dict[str, Any]]
