"""The schema on both databases equals the records; a newer one is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from fastapi.testclient import TestClient
from sqlalchemy import inspect, text

from app.main import create_app
from app.records import Base, Checkpoint, Job, JobLabel, MetricPoint, Model, ModelAlias, ModelVersion
from app.records.session import Database
from app.serve import ServeError, serve
from app.settings import Settings
from app.storage import Storage
from migrations import NewerSchemaError, UnknownRevisionError, is_current, move, upgrade
from tests.conftest import new_database
from tests.servers import wait_for


def test_the_migrated_schema_is_that_of_the_records(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


@pytest.fixture(params=("sqlite", "postgres"))
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Of an empty database of each kind."""
    if request.param == "sqlite":
        return Settings(home=tmp_path)
    return Settings(home=tmp_path, database_url=new_database(request.getfixturevalue("postgres_server")))


def conditions(database: Database) -> dict[str, tuple[dict[str, str], dict[str, Any]]]:
    """Table → its CHECK constraints, and its indexes with their WHERE, without the parentheses around it."""
    kind = database.engine.dialect.name
    with database.engine.connect() as connection:
        tables = inspect(connection)
        return {
            table: (
                {str(check["name"]): check["sqltext"] for check in tables.get_check_constraints(table)},
                {
                    str(index["name"]): (
                        index["column_names"],
                        index["unique"],
                        str(index.get("dialect_options", {}).get(f"{kind}_where")).strip("()"),
                    )
                    for index in tables.get_indexes(table)
                },
            )
            for table in sorted(set(tables.get_table_names()) - {"alembic_version"})
        }


def test_conditions_of_checks_and_indexes_are_those_of_the_records(settings: Settings) -> None:
    """Which alembic does not compare."""
    database = Database(settings.database_url)
    Base.metadata.create_all(database.engine)
    expected = conditions(database)
    checks, indexes = expected["jobs"]
    assert "cancelled" in checks["ck_jobs_status"] and "queued" in indexes["ix_jobs_unfinished_queue_id_status"][2]
    Base.metadata.drop_all(database.engine)
    upgrade(settings)
    assert conditions(database) == expected
    database.close()


def test_two_processes_that_migrate_at_once_both_end_well(tmp_path: Path, postgres_server: str) -> None:
    """A table of the test's own, not committed yet, holds up whoever begins; the other has to wait for that one."""
    url = new_database(postgres_server)
    variables = {"CLEAD_HOME": str(tmp_path), "CLEAD_DATABASE_URL": url}
    command = [sys.executable, "-m", "app.cli", "migrate"]
    database = Database(url)
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with database.engine.connect() as held, database.engine.connect() as watching:
        held.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)"))
        migrating = [subprocess.Popen(command, env=os.environ | variables) for _ in range(2)]
        try:
            watching = watching.execution_options(isolation_level="AUTOCOMMIT")
            wait_for(lambda: watching.scalar(waiting) == 2, seconds=120, what="both")
        finally:
            held.rollback()
            ended = [process.wait(120) for process in migrating]
    assert ended == [0, 0]
    with database.engine.connect() as connection:
        assert is_current(connection)
    database.close()


def test_upgrading_a_file_at_once_is_safe(tmp_path: Path) -> None:
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


Rows = dict[str, list[dict[str, Any]]]


def everything(settings: Settings) -> Rows:
    """All rows of all tables."""
    database = Database(settings.database_url)
    with database.engine.connect() as connection:
        names = sorted(set(inspect(connection).get_table_names()) - {"alembic_version"})
        found = {
            name: [dict(row) for row in connection.execute(text(f"SELECT * FROM {name}")).mappings()] for name in names
        }
    database.close()
    return found


def known_to(older: Rows, rows: Rows) -> Rows:
    """What is left of ``rows`` in the tables and columns of an older schema."""
    return {
        name: [{column: row[column] for column in known} for row, known in zip(rows[name], kept, strict=True)]
        for name, kept in older.items()
    }


def fill(settings: Settings) -> None:
    database = Database(settings.database_url)
    with database.writing() as session:
        job = Job(kind="pretrain", status="running", queue="train", spec={"epochs": 3}, labels=[])
        job.labels.append(JobLabel(key="team", value="vision"))
        session.add(job)
        session.add(Model(name="robust"))
        session.flush()
        session.add(MetricPoint(job_id=job.id, series="loss", step=1, value=0.1))
        session.add(Checkpoint(job_id=job.id, attempt=1, step=1, sha256="0" * 64, size=1))
        session.add(ModelVersion(name="robust", version=1, sha256="1" * 64, size=2, card={}, metrics={}, job_id=job.id))
        session.flush()
        session.add(ModelAlias(name="robust", alias="production", version=1))
    database.close()


def test_down_and_up_again_keeps_all_that_both_versions_know(settings: Settings) -> None:
    upgrade(settings)
    fill(settings)
    before = everything(settings)
    move(settings, "0001")
    older = everything(settings)
    assert older == known_to(older, before)
    assert sum(map(len, older.values())) == 7
    assert set(before) - set(older) == {"api_tokens"}
    move(settings, "0002")
    upgrade(settings)
    assert everything(settings) == before


def test_a_move_to_nowhere_says_where_one_can_go(settings: Settings) -> None:
    upgrade(settings)
    with pytest.raises(UnknownRevisionError, match="there are 0001, 0002, 0003, 0004"):
        move(settings, "0099")


def test_neither_the_api_nor_serve_starts_on_a_newer_schema(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(home=tmp_path, port=0)
    upgrade(settings)
    database = Database(settings.database_url)
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(NewerSchemaError), TestClient(create_app(settings)):
        pass
    assert "not starting: the database's schema is at revision 9999" in caplog.text
    with pytest.raises(ServeError, match="revision 9999"):
        serve(settings, on_ready=lambda url: None)


@pytest.mark.parametrize(
    "command",
    [["prune", "--unreferenced"], ["token", "list"], ["reaper"]],
    ids=lambda command: command[0],
)
def test_no_command_works_on_a_newer_schema(command: list[str], tmp_path: Path) -> None:
    """Least of all one that removes what this version sees no use for."""
    settings = Settings(home=tmp_path)
    upgrade(settings)
    artifact = Storage(settings.storage_url).put_bytes(b"of a newer column")
    path = tmp_path / "storage" / artifact.sha256[:2] / artifact.sha256
    os.utime(path, (time.time() - 90_000,) * 2)
    database = Database(settings.database_url)
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    ended = subprocess.run(
        [sys.executable, "-m", "app.cli", *command],
        env=os.environ | {"CLEAD_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 1 and "9999" in ended.stderr and "Traceback" not in ended.stderr, ended.stderr
    assert path.exists()
