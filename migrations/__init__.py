"""The database's schema, version by version (Alembic)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from app.records.session import Database
from app.settings import Settings

LOCK = 0x636C656164  # "clead"


class NewerSchemaError(RuntimeError):
    """The database was written by a newer version of this service."""


class UnknownRevisionError(ValueError):
    """There is no such revision of the schema."""


def upgrade(settings: Settings) -> None:
    """Bring the schema of ``settings.database_url`` up to this version; safe to call from several processes at once.

    Raises :class:`NewerSchemaError` if the database's schema is one that this version does not know.
    """
    with _alone(settings) as connection:
        upgrade_connection(connection)


def upgrade_connection(connection: Connection) -> None:
    """Migrate inside the transaction of ``connection``: all of it or nothing."""
    config, script = _alembic(connection)
    if _known_revision(connection, script) != script.get_current_head():
        command.upgrade(config, "head")


def move(settings: Settings, revision: str) -> None:
    """Bring the schema up or down to ``revision``, all of it or nothing; down loses what only later versions keep.

    Raises :class:`UnknownRevisionError`, and :class:`NewerSchemaError` as :func:`upgrade` does.
    """
    with _alone(settings) as connection:
        config, script = _alembic(connection)
        known = [each.revision for each in script.walk_revisions()]  # the newest first
        if revision not in known:
            raise UnknownRevisionError(f"there is no revision {revision!r}; there are {', '.join(reversed(known))}")
        current = _known_revision(connection, script)
        if current is None or known.index(revision) < known.index(current):
            command.upgrade(config, revision)
        else:
            command.downgrade(config, revision)


def refuse_newer(database: Database) -> None:
    """Raise :class:`NewerSchemaError` if ``database`` was written by a version newer than this one."""
    with database.session() as session:
        connection = session.connection()
        _known_revision(connection, _alembic(connection)[1])


def is_current(connection: Connection) -> bool:
    """Whether the schema is this version's and not an older one; raises :class:`NewerSchemaError`."""
    script = _alembic(connection)[1]
    return _known_revision(connection, script) == script.get_current_head()


@contextmanager
def _alone(settings: Settings) -> Iterator[Connection]:
    """A transaction that no other process's migration runs beside."""
    database = Database(settings.database_url)
    try:
        with database.writing() as session:  # SQLite: the write lock is held from here on
            connection = session.connection()
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
            yield connection
    finally:
        database.close()


def _alembic(connection: Connection) -> tuple[Config, ScriptDirectory]:
    config = _config()
    config.attributes["connection"] = connection
    return config, _script()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


@cache
def _script() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _known_revision(connection: Connection, script: ScriptDirectory) -> str | None:
    """The schema's revision, None for an empty database; raises :class:`NewerSchemaError`."""
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
        raise NewerSchemaError(
            f"the database's schema is at revision {current}, which this version does not know "
            f"(it knows up to {script.get_current_head()}); run the version that wrote it, or a newer one"
        )
    return current
