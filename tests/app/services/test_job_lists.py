"""Lists of jobs: what they hold beside a plain loop, in how many statements, and by which plan on PostgreSQL."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import event, insert, text

from app.records import Job, JobLabel, new_id
from app.records.session import Database
from app.services import claims, jobs, quotas
from app.services.tokens import OPERATOR, Principal
from app.settings import Settings
from migrations import upgrade
from tests.conftest import new_database

KINDS = ("train", "evaluate", "protocol", "shard", "merge")
STATUSES = ("queued", "running", "succeeded", "failed", "cancelled")
ACCOUNTS = ("alice", "bob", None)


@dataclass(frozen=True)
class Made:
    id: str
    kind: str
    status: str
    account: str | None
    labels: dict[str, str]


def make(database: Database, count: int, *, final: float = 0.0, seed: int = 0) -> list[Made]:
    """Random jobs, the newest first; ``final``: the share that has succeeded for sure."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        labels = {"team": rng.choice("abc"), "n": str(number % 50)}
        if rng.random() < 0.3:
            labels.pop("team")
        status = "succeeded" if rng.random() < final else rng.choice(STATUSES)
        found.append(Made(new_id(), rng.choice(KINDS), status, rng.choice(ACCOUNTS), labels))
    rows = [
        {"id": job.id, "kind": job.kind, "status": job.status, "account": job.account, "spec": {}, "queue": "train"}
        for job in found
    ]
    labels = [{"job_id": job.id, "key": key, "value": value} for job in found for key, value in job.labels.items()]
    with database.writing() as session:
        session.execute(insert(Job), rows)
        session.execute(insert(JobLabel), labels)
    return sorted(found, key=lambda job: job.id, reverse=True)


def plainly(made: list[Made], asking: Principal, filters: dict[str, Any]) -> list[str]:
    found = []
    for job in made:
        kind, status = filters.get("kind"), filters.get("status")
        if job.kind != kind if kind else job.kind in ("shard", "merge"):
            continue
        if (status and job.status != status) or not asking.owns(job.account):
            continue
        if all(job.labels.get(key) == value for key, value in filters.get("labels", ())):
            found.append(job.id)
    return found


def all_pages(database: Database, asking: Principal, limit: int, filters: dict[str, Any]) -> list[str]:
    found: list[str] = []
    cursor = None
    with database.session() as session:
        while True:
            page = jobs.list_jobs(session, asking=asking, limit=limit, cursor=cursor, **filters)
            found += [job.id for job in page.items]
            cursor = page.next_cursor
            if cursor is None:
                return found
            assert len(page.items) == limit


def test_every_filter_on_every_page_is_that_of_a_plain_loop(database: Database) -> None:
    made = make(database, 400)
    kinds = (None, "evaluate", "shard")
    statuses = (None, "failed", "queued")
    labels = ((), (("team", "a"),), (("team", "a"), ("n", "7")), (("team", "a"), ("team", "b")), (("team", "z"),))
    askers = (OPERATOR, Principal(scope="submit", account="alice"), Principal(scope="submit", account="nobody"))
    for kind, status, carried, asking in itertools.product(kinds, statuses, labels, askers):
        filters = {
            name: value
            for name, value in (("kind", kind), ("status", status), ("labels", carried))
            if value is not None
        }
        expected = plainly(made, asking, filters)
        for limit in (7, 200):
            assert all_pages(database, asking, limit, filters) == expected, (filters, asking)


def test_a_listed_job_has_its_labels(database: Database) -> None:
    made = {job.id: job for job in make(database, 60)}
    with database.session() as session:
        views = jobs.job_views(session, jobs.list_jobs(session, limit=60).items)
    assert [view["labels"] for view in views] == [made[view["id"]].labels for view in views]


@contextmanager
def statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """The statements that the block sends, with their parameters."""
    found: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        found.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def test_a_page_takes_as_many_statements_as_a_job_does(database: Database) -> None:
    """Rows, labels, children, and the state of children: however many jobs there are, and however many parents."""
    with database.writing() as session:
        for number in range(40):
            parent = Job(kind="protocol", status="running", spec={}, progress={"total": 3}, labels=[])
            session.add(parent)
            session.flush()
            for step in range(3):
                key = f"step:{step}"
                session.add(
                    Job(
                        kind="train",
                        status="queued",
                        queue="train",
                        spec={},
                        parent_id=parent.id,
                        step_key=key,
                        labels=[],
                    )
                )
            parent.labels.append(JobLabel(key="n", value=str(number)))
    counts = []
    for limit in (1, 4, 100):
        with statements(database) as sent, database.session() as session:
            views = jobs.job_views(session, jobs.list_jobs(session, kind="protocol", limit=limit).items)
        counts.append(sum(not statement.startswith("BEGIN") for statement, _ in sent))
        assert {len(view["children"]) for view in views} == {3}
    assert counts == [4, 4, 4]


@pytest.fixture(scope="module")
def many(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """PostgreSQL with thirty thousand jobs, nearly all of them finished, as a service that has run for a while."""
    url = new_database(postgres_server)
    upgrade(Settings(home=tmp_path_factory.mktemp("home"), database_url=url))
    database = Database(url)
    make(database, 30_000, final=0.98)
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("VACUUM (ANALYZE)"))
    yield database
    database.close()


def plans(database: Database, sent: list[tuple[str, Any]]) -> str:
    with database.engine.connect() as connection:
        cursor = connection.connection.cursor()
        found = []
        for statement, parameters in sent:
            cursor.execute(f"EXPLAIN {statement}", parameters)
            found += [row[0] for row in cursor.fetchall()]
    return "\n".join(found)


BOB = Principal(scope="submit", account="bob")


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
def test_a_list_on_postgresql_goes_through_an_index(many: Database, index: str, filters: dict[str, Any]) -> None:
    with statements(many) as sent, many.session() as session:
        jobs.list_jobs(session, **filters)
    plan = plans(many, sent[:1])  # labels of a page follow
    assert index in plan
    assert "Seq Scan" not in plan, plan


def test_workers_and_quotas_read_unfinished_jobs_alone(many: Database) -> None:
    with statements(many) as sent, many.writing() as session:
        claims.claimable(session, queues=("train",))
        claims.claimable(session, queues=("train", "evaluate"))
        claims.fail_exhausted(session, max_attempts=3)
        quotas.unfinished_jobs(session, "alice")
    questions = [each for each in sent if "lease_until <" in each[0] or "count" in each[0]]
    assert len(questions) == 4
    for question in questions:
        plan = plans(many, [question])
        assert "ix_jobs_unfinished_queue_id_status" in plan and "Seq Scan" not in plan, plan


@pytest.mark.parametrize(
    ("index", "condition"),
    [
        ("ix_jobs_listed_id", "kind NOT IN ('shard', 'merge')"),
        ("ix_jobs_listed_account_id", "kind NOT IN ('shard', 'merge') AND account = ?"),
        ("ix_jobs_listed_status_id_account", "kind NOT IN ('shard', 'merge') AND status = ?"),
        ("ix_jobs_unfinished_queue_id_status", "status IN ('queued', 'running') AND queue = ?"),
    ],
)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_partial_indexes_serve_sqlite_too(database: Database, index: str, condition: str) -> None:
    with database.engine.connect() as connection:
        query = f"EXPLAIN QUERY PLAN SELECT id FROM jobs WHERE {condition} ORDER BY id DESC"
        plan = connection.exec_driver_sql(query, ("x",) * condition.count("?")).all()
    assert index in str(plan)
