"""Versions, aliases and references."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import update

from app.errors import ConflictError, NotFoundError
from app.records import Model, utc_now
from app.records.session import Database
from app.services import jobs, models

CARD: dict[str, Any] = {"kind": "encoder"}


def register(database: Database, name: str = "m", sha256: str = "0" * 64) -> str:
    with database.writing() as session:
        return models.register_version(session, name=name, sha256=sha256, size=1, card=CARD).reference


def test_references_mean_the_newest_a_version_or_an_alias(database: Database) -> None:
    assert [register(database) for _ in range(3)] == ["m@1", "m@2", "m@3"]
    with database.writing() as session:
        models.set_alias(session, "m", alias="production", version=2)
        assert models.resolve(session, "m").version == 3
        assert models.resolve(session, "m@1").version == 1
        assert models.resolve(session, "m@production").version == 2
        models.set_alias(session, "m", alias="production", version=1)
        assert models.resolve(session, "m@production").version == 1
        for missing in ("x", "m@9", "m@staging", "m@99999999999999999999"):
            with pytest.raises(NotFoundError):
                models.resolve(session, missing)
        with pytest.raises(ConflictError, match="version number"):
            models.set_alias(session, "m", alias="7", version=1)


def test_versions_registered_at_once_get_different_numbers(database: Database) -> None:
    register(database)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(register(database))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [f"m@{number}" for number in range(2, 8)]


def test_a_deleted_number_is_never_used_again(database: Database) -> None:
    register(database, sha256="1" * 64)
    register(database, sha256="2" * 64)
    with database.writing() as session:
        assert models.delete_version(session, "m", version=2) == "2" * 64
    assert register(database) == "m@3"


def test_what_is_needed_cannot_be_deleted(database: Database) -> None:
    register(database)
    with database.writing() as session:
        models.set_alias(session, "m", alias="production", version=1)
    with database.writing() as session, pytest.raises(ConflictError, match="production"):
        models.delete_version(session, "m", version=1)
    with database.writing() as session:
        models.delete_alias(session, "m", alias="production")
        job = jobs.submit(session, kind="evaluate", spec={"model": "m@1"})
    with database.writing() as session, pytest.raises(ConflictError, match=job.id):
        models.delete_version(session, "m", version=1)
    with database.writing() as session:
        jobs.cancel(session, job.id)
        models.delete_model(session, "m")
        with pytest.raises(NotFoundError):
            models.list_versions(session, "m")


def test_models_are_paged_newest_first(database: Database) -> None:
    for name in ("a", "b", "c"):
        register(database, name)
    with database.session() as session:
        first = models.list_models(session, limit=2)
        assert first.items == ["c", "b"]
        assert models.list_models(session, limit=2, cursor=first.next_cursor).items == ["a"]


def test_models_of_one_time_are_paged_in_the_order_of_their_names(database: Database) -> None:
    for name in "caebd":
        register(database, name)
    with database.writing() as session:
        session.execute(update(Model).values(created_at=utc_now()))
    found: list[str] = []
    with database.session() as session:
        cursor: str | None = None
        while cursor is not None or not found:
            page = models.list_models(session, limit=2, cursor=cursor)
            found += page.items
            cursor = page.next_cursor
    assert found == list("edcba")
