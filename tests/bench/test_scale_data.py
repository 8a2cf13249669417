"""The database that `bench.scale` measures is whole, and as it was after a part that failed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.records.session import Database
from app.services import models as registry
from app.settings import Settings
from bench.scale_data import COLUMNS, Sample, Year, fill, is_filled, submissions
from bench.scale_workers import put_aside
from migrations import upgrade
from tests.conftest import new_database

Connection = psycopg.Connection[Any]


@pytest.fixture
def connection(postgres_server: str, tmp_path: Path) -> Iterator[Connection]:
    url = new_database(postgres_server)
    upgrade(Settings(home=tmp_path, database_url=url))
    database = Database(url)
    with database.writing() as session:  # fill() copies its card
        registry.register_version(session, name="real", sha256="0" * 64, size=1, card={"kind": "classifier"})
    database.close()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connected:
        yield connected


class Short(Year):
    """Trainings and two queued evaluations, the last of which comes as often as asked for."""

    def __init__(self, *, last: int = 1) -> None:
        samples = {kind: [Sample(kind, {}, {}, None, None)] for kind in ("train", "evaluate")}
        super().__init__(samples, runs=40, shards=0)
        self._last = last

    def rows(self) -> Iterator[tuple[Any, ...]]:
        while self.made < self.runs:
            yield self._single("train", status="succeeded")
        for status, times in (("queued", 1), ("queued", self._last)):
            row = self._single("evaluate", status=status)
            yield from [row] * times


def value(connection: Connection, query: str) -> Any:
    return (connection.execute(query).fetchone() or (None,))[0]


def test_a_filled_database_says_so(connection: Connection) -> None:
    assert not is_filled(connection)
    fill(connection, Short(), points=4000)
    assert is_filled(connection)
    assert value(connection, "SELECT count(*) FROM jobs") == 42
    assert value(connection, "SELECT sum(steps) * 4 FROM bench_sizes") == value(
        connection, "SELECT count(*) FROM metric_points"
    )


def test_an_interrupted_fill_is_not_taken_for_a_whole_one(connection: Connection) -> None:
    """A row that came twice stops it when the keys are built, which is after all rows and points."""
    with pytest.raises(psycopg.errors.UniqueViolation):
        fill(connection, Short(last=2), points=4000)
    assert value(connection, "SELECT count(*) FROM metric_points") > 0
    assert not is_filled(connection)


def test_a_drain_that_fails_leaves_the_year_as_it_was(connection: Connection) -> None:
    fill(connection, Short(), points=4000)
    statuses = "SELECT string_agg(status, ' ' ORDER BY id) FROM jobs"
    before = value(connection, statuses)
    with pytest.raises(KeyboardInterrupt), put_aside(connection), submissions(connection):
        assert "queued" not in value(connection, statuses)
        posted = list(Short().rows())[-1]
        marks = ", ".join(["%s"] * len(COLUMNS))
        connection.execute(f"INSERT INTO jobs ({', '.join(COLUMNS)}) VALUES ({marks})", ("f" * 32, *posted[1:]))
        raise KeyboardInterrupt
    assert value(connection, statuses) == before
