"""Lists of jobs: what they hold beside a plain loop, and in how many statements."""

from __future__ import annotations

import itertools
from typing import Any

from app.records import Job, JobLabel
from app.records.session import Database
from app.services import jobs
from app.services.tokens import OPERATOR, Principal
from tests.app.services.many_jobs import Made, make, statements


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
