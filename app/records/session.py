"""Connections and transactions, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic_core import from_json
from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

BUSY_SECONDS = 15.0
CONNECTIONS = 15
"""The most of one process, kept once opened. A thread that finds none free waits: more would only share the same core,
and a server has as many as it was set up for."""
PATIENCE: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""libpq's: a server that cannot be reached is an error within seconds. By itself TCP waits for a quarter of an hour."""
AWAY = frozenset({"25006", "25P03", "25P04"})
"""SQLSTATEs, internal errors to psycopg, of a server that has become read-only (a failover, a full disk) or has ended a
transaction that took too long."""


class Database:
    """A database by its URL. Threads may share it; each takes its own session."""

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self._sqlite = self.url.get_backend_name() == "sqlite"
        if self._sqlite and self.url.database:
            Path(self.url.database).parent.mkdir(parents=True, exist_ok=True)
        # A statement prepared on the server gets a plan for values not known yet: the same for a label that half of all
        # jobs carry and for one that none does.
        server = {**PATIENCE, "prepare_threshold": None}
        arguments: dict[str, Any] = {"timeout": BUSY_SECONDS} if self._sqlite else server
        in_memory = self._sqlite and self.url.database in (None, "", ":memory:")  # of one connection alone
        pool = {} if in_memory else {"pool_size": CONNECTIONS, "max_overflow": 0}
        self.engine: Engine = create_engine(
            self.url,
            connect_args=arguments,
            pool_pre_ping=not self._sqlite,
            **pool,
            json_deserializer=from_json,  # results are most of a page of jobs; json.loads takes three times as long
        )
        if self._sqlite:
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            event.listen(self.engine, "connect", _configure_postgres)
            event.listen(self.engine, "handle_error", _away)
        self._writing: Engine = self.engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction for reading, or for one write with no read before it; commits unless an error leaves it."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that reads and then writes.

        On SQLite it takes the write lock at once: a lock asked for after a read fails when another has written since.
        """
        with Session(self._writing, expire_on_commit=False) as session, session.begin():
            session.connection()  # begins now, and not with the first statement
            yield session

    def close(self) -> None:
        self.engine.dispose()


def _configure_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver must not begin transactions of its own: _begin_sqlite does
    for pragma in ("busy_timeout=15000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _configure_postgres(connection: Any, record: Any) -> None:
    """A host that is cut off in the middle of a transaction must not keep its locks, which else it does for hours."""
    connection.execute("SET idle_in_transaction_session_timeout = '60s'")
    connection.commit()


def _away(context: ExceptionContext) -> OperationalError | None:
    """Such an error as what it is; its connection is given up, as the next one may find the server's successor."""
    error = context.original_exception
    if getattr(error, "sqlstate", None) not in AWAY:
        return None
    context.is_disconnect = True
    return OperationalError(context.statement, context.parameters, error, connection_invalidated=True)


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))
