"""What a check finds, and what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from app.records.session import Database
from app.settings import Settings
from app.storage import Storage

Status = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``advice`` says what to do about it."""

    check: str
    status: Status
    detail: str
    advice: str = ""


@dataclass
class Site:
    """The deployment, as far as it could be reached so far."""

    settings: Settings
    url: str | None = None
    deep: bool = False
    database: Database | None = None
    """None: there is none, or one without the tables that this version needs."""
    storage: Storage | None = None

    def opened_database(self) -> Database:
        if self.database is None:
            raise NotReachedError("database")
        return self.database

    def opened_storage(self) -> Storage:
        if self.storage is None:
            raise NotReachedError("storage")
        return self.storage


class NotReachedError(Exception):
    """A check needs what an earlier one could not reach; the text names it."""


Check = Callable[[Site], Iterable[Finding]]
"""Its name, without underscores, is what the report calls it where it could not be made."""


def ok(check: str, detail: str) -> Finding:
    return Finding(check, "ok", detail)


def warning(check: str, detail: str, *, advice: str) -> Finding:
    return Finding(check, "warning", detail, advice)


def failed(check: str, detail: str, *, advice: str) -> Finding:
    return Finding(check, "failed", detail, advice)
