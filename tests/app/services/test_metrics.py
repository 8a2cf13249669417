"""Series in full, thinned by the database, and page by page, beside plain Python."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from sqlalchemy import event, insert

from app.records import Job, MetricPoint
from app.records.session import Database
from app.services import jobs
from app.services.metrics import Series

SERIES: dict[str, list[int]] = {
    "every step": list(range(1, 1001)),
    "every tenth": list(range(10, 5001, 10)),
    "one point": [7],
    "two far apart": [-5, 2**31 - 1],
    "exactly fifty": list(range(50)),
    "with a gap": [*range(100), *range(10_000, 10_100)],
    "irregular": sorted(random.Random(0).sample(range(100_000), 777)),
}


def plainly_thinned(series: Series, points: int) -> Series:
    """By a walk over all points, with exact fractions."""
    if len(series) <= points:
        return series
    if points == 1:
        return series[-1:]
    first, last = int(series[0][0]), int(series[-1][0])
    found: Series = []
    for number in range(points):
        place = first + math.ceil(number * (last - first) / (points - 1))
        point = next(point for point in series if point[0] >= place)
        if point not in found:
            found.append(point)
    return found


@pytest.fixture
def job_id(database: Database) -> str:
    """A job with all the series, and another whose points must not be mixed up with its own."""
    rows = []
    with database.writing() as session:
        for number in range(2):
            job = jobs.submit(session, kind="train", spec={})
            rows += [
                {"job_id": job.id, "series": name, "step": step, "value": step / 7 + number}
                for name, steps in SERIES.items()
                for step in steps
            ]
        random.Random(1).shuffle(rows)
        session.execute(insert(MetricPoint), rows)
        first = session.query(Job).order_by(Job.id).first()
    assert first is not None
    return first.id


def test_whole_series(database: Database, job_id: str) -> None:
    with database.session() as session:
        found = jobs.metric_series(session, job_id)
    assert found == {name: [[step, step / 7] for step in steps] for name, steps in SERIES.items()}


@pytest.mark.parametrize("points", [1, 2, 3, 7, 50, 199, 200, 999, 1000, 100_000])
def test_thinning_in_the_database_is_that_of_plain_python(database: Database, job_id: str, points: int) -> None:
    with database.session() as session:
        thinned = jobs.metric_series(session, job_id, points=points)
        whole = jobs.metric_series(session, job_id)
    assert thinned == {name: plainly_thinned(series, points) for name, series in whole.items()}
    for name, series in thinned.items():
        assert len(series) <= points
        assert series[-1] == whole[name][-1]
        assert points == 1 or series[0] == whole[name][0]


def test_random_series_are_thinned_as_plain_python_does(database: Database) -> None:
    rng = random.Random(2)
    with database.writing() as session:
        job_id = jobs.submit(session, kind="train", spec={}).id
        for number in range(20):
            steps = sorted(rng.sample(range(rng.choice([100, 10_000, 2**31])), rng.randint(1, 90)))
            rows = [{"job_id": job_id, "series": f"{number}", "step": step, "value": rng.random()} for step in steps]
            session.execute(insert(MetricPoint), rows)
    with database.session() as session:
        whole = jobs.metric_series(session, job_id)
        for points in (2, 3, 5, 10, 31, 64):
            thinned = jobs.metric_series(session, job_id, points=points)
            assert thinned == {name: plainly_thinned(series, points) for name, series in whole.items()}


def test_a_job_without_points(database: Database) -> None:
    with database.writing() as session:
        job_id = jobs.submit(session, kind="train", spec={}).id
        assert jobs.metric_series(session, job_id) == {}
        assert jobs.metric_series(session, job_id, points=10) == {}


@pytest.mark.parametrize("database", ["postgres"], indirect=True)  # SQLite's cursor does not tell how many rows it has
def test_no_more_is_fetched_than_is_answered(database: Database, job_id: str) -> None:
    fetched = 0

    def count(connection: object, cursor: Any, statement: str, *rest: object) -> None:
        nonlocal fetched
        fetched += cursor.rowcount

    event.listen(database.engine, "after_cursor_execute", count)
    with database.session() as session:
        jobs.metric_series(session, job_id, points=3)
    assert len(SERIES) * 3 < fetched <= len(SERIES) * 4, "for each: its name and its span, three points"


def test_points_come_in_order_of_arrival(database: Database, job_id: str) -> None:
    seen: list[int] = []
    with database.session() as session:
        while page := jobs.metrics_after(session, job_id, after=seen[-1] if seen else 0, limit=500):
            seen += [point.id for point in page]
    assert len(seen) == sum(map(len, SERIES.values()))
    assert seen == sorted(set(seen))
