"""What a database that is away looks like."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from app.records.session import Database
from tests.conftest import new_database


def test_a_server_that_has_become_read_only_is_away_and_its_successor_is_found(postgres_server: str) -> None:
    """Psycopg calls it an internal error, which would cost a finished run: nobody waits for those."""
    url = new_database(postgres_server)
    database = Database(url)
    name = url.rpartition("/")[2]
    try:
        with database.writing() as session:
            session.execute(text("CREATE TABLE t (n int)"))
            session.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
        database.close()
        with pytest.raises(OperationalError, match="read-only"), database.writing() as session:
            session.execute(text("INSERT INTO t VALUES (1)"))
        with database.writing() as session:
            session.execute(text("SET TRANSACTION READ WRITE"))
            session.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = off"))
        with pytest.raises(OperationalError, match="read-only"), database.writing() as session:
            session.execute(text("INSERT INTO t VALUES (1)"))  # the pool's connection is still of the old kind
        with database.writing() as session:
            session.execute(text("INSERT INTO t VALUES (1)"))
    finally:
        database.close()
