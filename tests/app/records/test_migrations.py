"""The schema on both databases equals the records; a newer one is refused."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from app.records import Base
from app.records.session import Database
from app.settings import Settings
from migrations import NewerSchemaError, upgrade


def test_the_migrated_schema_is_that_of_the_records(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_upgrading_at_once_from_many_processes_is_safe(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    errors: list[Exception] = []

    def migrate() -> None:
        try:
            upgrade(settings)
        except Exception as error:  # told to the test below
            errors.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    upgrade(settings)
    database = Database(settings.database_url)
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(NewerSchemaError, match="9999"):
        upgrade(settings)
    with database.session() as session:
        assert session.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"
    database.close()
