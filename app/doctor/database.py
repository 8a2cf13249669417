"""The database: it answers, has this version's tables, and agrees about the time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from app.doctor.findings import Finding, Site, failed, ok, warning
from app.records import epoch_now
from app.records.session import Database
from migrations import NewerSchemaError, is_current

WAL_FORMAT = b"\x02\x02"
"""Bytes 18 and 19 of an SQLite file that this service has opened once (https://www.sqlite.org/fileformat.html)."""
SKEW_SECONDS = 1.0


def database(site: Site) -> Iterator[Finding]:
    """It answers, and its schema is this version's. Later checks use it only then."""
    found: Database | None = None
    try:
        missing = _missing_file(site.settings.database_url)
        if missing is not None:
            yield failed("database", missing, advice="run clead migrate, or set CLEAD_DATABASE_URL or CLEAD_HOME")
            return
        found = Database(site.settings.database_url)
        with found.session() as session:
            if is_current(session.connection()):
                site.database = found
    except (SQLAlchemyError, ImportError) as error:
        detail = f"does not answer: {_reason(error)}"
        yield failed("database", detail, advice="check CLEAD_DATABASE_URL, and that the server runs and is reached")
        return
    except NewerSchemaError as error:
        yield failed("database", str(error), advice="update this installation, or see Another version in the docs")
        return
    finally:
        if found is not None and site.database is None:
            found.close()
    if site.database is not None:
        yield ok("database", f"{found.url.get_backend_name()} answers; its schema is this version's")
    else:
        yield failed("database", "its schema is older than this version's", advice="run clead migrate")


def clock(site: Site) -> Iterator[Finding]:
    """Leases run by the database's clock, the ages of jobs by this machine's."""
    found = site.opened_database()
    if found.url.get_backend_name() == "sqlite":
        yield ok("clock", "the database's clock is this machine's")
        return
    with found.session() as session:
        session.execute(select(1))  # connects
        before = time.time()
        theirs = float(session.execute(select(epoch_now())).scalar_one())
        after = time.time()
    skew = theirs - (before + after) / 2
    detail = f"the database's clock differs from this machine's by {skew:+.2f} s"
    if abs(skew) > SKEW_SECONDS + (after - before) / 2:
        yield warning("clock", detail, advice="let both machines take their time from one NTP server")
    else:
        yield ok("clock", detail)


def _missing_file(url: str) -> str | None:
    """What is wrong with an SQLite file, told without opening it as a database: that would make or change it."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return None
    path = Path(parsed.database)
    try:
        with path.open("rb") as file:
            header = file.read(20)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return None if header[18:20] == WAL_FORMAT else f"{path} is not a database of this service"


def _reason(error: Exception) -> str:
    if isinstance(error, ArgumentError):
        return "CLEAD_DATABASE_URL is not a URL"  # the message holds all of it, password and all
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
