"""Beside many finished jobs: how each database answers the statements that the services really send."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.records.session import Database
from app.services import claims, jobs, load, quotas
from app.services.claims import Point
from app.services.tokens import OPERATOR, Limits, Principal
from app.settings import Settings
from app.storage import Storage
from migrations import upgrade
from tests.app.services.many_jobs import make, statements
from tests.app.services.retention import House
from tests.conftest import database_urls

BOB = Principal(scope="submit", account="bob", limits=Limits(unfinished_jobs=10**6, stored_bytes=10**12))
WHOLE = re.compile(r"(Seq Scan on|SCAN) (jobs|job_labels)(_\d+)?\b(?! USING (COVERING )?INDEX ix_jobs_unfinished_)")
"""PostgreSQL's and SQLite's words for reading every row of a table, or of an index, that grows with the jobs."""


@pytest.fixture(scope="module", params=("sqlite+filesystem", "postgres+redis"))
def many(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """Thirty thousand jobs, nearly all of them finished, as of a service that has run for a while."""
    settings = Settings(home=tmp_path_factory.mktemp("home"), **database_urls(request.param, request))
    upgrade(settings)
    database = Database(settings.database_url)
    make(database, 30_000, final=0.98)
    if database.engine.dialect.name == "postgresql":
        with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("VACUUM (ANALYZE)"))
    yield database
    database.close()


@pytest.fixture
def house(many: Database, tmp_path: Path) -> House:
    return House(many, Storage(f"file://{tmp_path}/storage"), tmp_path)


def plans(database: Database, sent: list[tuple[str, Any]]) -> list[str]:
    """How the database answers each statement, a line a step."""
    explain = "EXPLAIN" if database.engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
    found = []
    with database.engine.connect() as connection:
        cursor = connection.connection.cursor()
        for statement, parameters in sent:
            if statement.startswith(("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")):
                one = parameters[0] if isinstance(parameters, list) else parameters
                cursor.execute(f"{explain} {statement}", one)
                found.append(statement + "\n" + "\n".join(str(row[-1]) for row in cursor.fetchall()))
    return found


def work(house: House) -> None:
    """What workers do with a job from its submission to its end, and the reaper meanwhile."""
    with house.database.writing() as session:
        quotas.admit_job(session, BOB)
        job_id = jobs.submit(session, kind="train", spec={"method": "standard"}, account="bob", labels={"n": "7"}).id
    claim = house.claim(job_id)
    house.checkpoint(claim, b"1")
    with house.database.writing() as session:
        claims.renew(session, claim, lease_seconds=60, progress={"done": 1}, metrics=[Point("loss", 1, 0.5)])
        claims.checkpoints(session, job_id)
        claims.succeeded(session, claim)
        claims.release(session, claim, failure="it died", max_attempts=3)
    with house.database.writing() as session:
        claims.claim(session, job_id, owner="w", lease_seconds=-1, max_attempts=3)
        claims.shorten_leases(session, lease_seconds=60)
        claims.fail_exhausted(session, max_attempts=1)
    with house.database.writing() as session:
        jobs.resume(session, job_id)
    house.end(house.claim(job_id))


def divide(house: House) -> None:
    """What becomes of a large evaluation that is cancelled and resumed."""
    house.register("net", b"weights")
    parent, shards = house.sharded()
    with house.database.writing() as session:
        jobs.cancel(session, parent)
    for claim in shards:
        house.end(claim, "cancelled")
    with house.database.writing() as session:
        jobs.resume(session, parent)
        waiting = [job.id for job in jobs.runnable(session, jobs.get(session, parent))]
    for shard in waiting:
        house.see(house.claim(shard), shard.encode())
    with house.database.session() as session:
        merge = jobs.runnable(session, jobs.get(session, parent))[0].id
    house.evaluated(house.claim(merge), b"merged")
    follow(house, parent)


def follow(house: House, job_id: str) -> None:
    """What a client asks about one job."""
    with house.database.session() as session:
        jobs.require(session, job_id, asking=OPERATOR)
        jobs.job_view(session, jobs.get(session, job_id))
        jobs.metric_series(session, job_id)
        jobs.metric_series(session, job_id, points=10)
        jobs.metrics_after(session, job_id, after=0)


def tidy(house: House) -> None:
    """What is asked before bytes are deleted."""
    for data in (b"1", b"2"):
        house.register("old", data)
    house.delete_model("old")


@pytest.mark.parametrize("act", [work, divide, tidy])
def test_a_jobs_life_reads_no_table_from_end_to_end(house: House, act: Callable[[House], None]) -> None:
    with statements(house.database) as sent:
        act(house)
    found = plans(house.database, sent)
    assert len(found) > 5
    assert [plan for plan in found if WHOLE.search(plan)] == []


QUESTIONS: dict[str, Callable[[Session], Any]] = {
    "a queue's oldest job": lambda session: claims.claimable(session, queues=("train",)),
    "the oldest job": lambda session: claims.claimable(session, queues=("train", "evaluate")),
    "leases that end too late": lambda session: claims.shorten_leases(session, lease_seconds=30),
    "jobs beyond help": lambda session: claims.fail_exhausted(session, max_attempts=3),
    "an account's jobs": lambda session: quotas.unfinished_jobs(session, "alice"),
    "jobs by kind": load.unfinished_jobs,
    "the longest wait": load.oldest_waiting,
    "leases that ended": load.expired_leases,
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_of_what_waits_or_runs_nothing_else_is_read(many: Database, question: str) -> None:
    with statements(many) as sent, many.writing() as session:
        QUESTIONS[question](session)
    found = [plan for plan in plans(many, sent) if "jobs.status" in plan]
    assert found
    for plan in found:
        assert "ix_jobs_unfinished_queue_id_status" in plan and not WHOLE.search(plan), plan


def test_finished_jobs_are_counted_in_an_index(many: Database) -> None:
    with statements(many) as sent, many.session() as session:
        load.FinishedJobs().read(session)
    (plan,) = plans(many, sent)
    assert re.search(r"(Index Only Scan using|COVERING INDEX) ix_jobs_", plan), plan


@pytest.mark.parametrize(
    ("index", "filters"),
    [
        ("ix_jobs_listed_id", {}),
        ("ix_jobs_listed_account_id", {"asking": BOB}),
        ("ix_jobs_kind_id_account", {"kind": "shard"}),
        ("ix_jobs_listed_status_id_account", {"status": "queued"}),
        ("ix_jobs_kind_status_id_account", {"kind": "train", "status": "failed"}),
        ("ix_jobs_kind_status_id_account", {"kind": "train", "status": "failed", "asking": BOB}),
        ("ix_jobs_listed_status_id_account", {"status": "failed", "asking": BOB}),
        ("ix_job_labels_key_value_job_id", {"labels": [("team", "a")]}),
        ("ix_job_labels_key_value_job_id", {"labels": [("team", "nobody")]}),
        ("ix_job_labels_key_value_job_id", {"labels": [("n", "7")], "status": "succeeded", "kind": "train"}),
    ],
)
def test_a_list_goes_through_an_index(many: Database, index: str, filters: dict[str, Any]) -> None:
    with statements(many) as sent, many.session() as session:
        jobs.list_jobs(session, **filters)
    found = plans(many, sent)
    assert index in found[0]
    assert [plan for plan in found if "Seq Scan" in plan] == []
