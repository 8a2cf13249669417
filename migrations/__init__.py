"""The database's schema, version by version (Alembic)."""

from __future__ import annotations

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


def upgrade(settings: Settings) -> None:
    """Bring the schema of ``settings.database_url`` up to this version; safe to call from several processes at once.

    Raises :class:`NewerSchemaError` if the database's schema is one that this version does not know.
    """
    database = Database(settings.database_url)
    try:
        with database.writing() as session:  # SQLite: the write lock is held from here on
            connection = session.connection()
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
            upgrade_connection(connection)
    finally:
        database.close()


def upgrade_connection(connection: Connection) -> None:
    """Migrate inside the transaction of ``connection``: all of it or nothing."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    current = MigrationContext.configure(connection).get_current_revision()
    script = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in script.walk_revisions()}
    if current is not None and current not in known:
        raise NewerSchemaError(
            f"the database's schema is at revision {current}, which this version does not know "
            f"(it knows up to {script.get_current_head()}); run the version that wrote it, or a newer one"
        )
    if current != script.get_current_head():
        command.upgrade(config, "head")
