"""How much work waits and has ended, on both databases."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.orm import Session

from app.records import epoch_now, utc_now
from app.records.session import Database
from app.services import load
from app.services.submission import add_job


def add(session: Session, status: str) -> None:
    add_job(session, kind="train", queue="train", spec={}).status = status
    session.flush()


def test_finished_jobs_are_counted_again_after_a_while_and_others_at_once(database: Database) -> None:
    now = 0.0
    finished = load.FinishedJobs(clock=lambda: now)
    with database.writing() as session:
        add(session, "succeeded")
        assert finished.read(session) == {"succeeded": 1, "failed": 0, "cancelled": 0}
        for status in ("succeeded", "queued", "running", "queued"):
            add(session, status)
        assert finished.read(session)["succeeded"] == 1
        assert load.unfinished_jobs(session) == {("train", "queued"): 2, ("train", "running"): 1}
        now = load.RECOUNT_SECONDS
        assert finished.read(session)["succeeded"] == 2


def test_a_count_that_takes_long_is_made_seldom(database: Database) -> None:
    ticks = iter((0.0, 5.0, 499.0, 501.0, 501.0))
    finished = load.FinishedJobs(clock=lambda: next(ticks))
    found = []
    with database.writing() as session:
        for _ in range(3):
            add(session, "failed")
            found.append(finished.read(session)["failed"])
    assert found == [1, 1, 3], "it took 5 s, so that 500 s pass before the next"


def test_the_oldest_job_that_a_worker_could_take(database: Database) -> None:
    with database.writing() as session:
        now = session.scalar(epoch_now().select())
        assert load.oldest_waiting(session) == {} and load.expired_leases(session) == []
        jobs = [add_job(session, kind="train", queue="train", spec={}) for _ in range(3)]
        for age, job in enumerate(jobs):
            job.created_at = utc_now() - timedelta(seconds=1000 * (age + 1))
        for job, left in zip(jobs[1:], (-60.0, 60.0), strict=True):
            job.status, job.lease_until = "running", now + left
        add_job(session, kind="protocol", queue=None, spec={}).created_at = utc_now() - timedelta(days=9)
        session.flush()
        age = load.oldest_waiting(session)
        assert list(age) == ["train"] and 2000 <= age["train"].total_seconds() < 2900
        assert load.expired_leases(session) == [jobs[1].id]
        assert load.expired_leases(session, seconds=300) == []
