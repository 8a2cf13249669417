"""The job life against real databases: conditional claims, leases by the database's clock, fenced writes."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import update

from app.errors import ConflictError
from app.records import Job, epoch_now
from app.records.session import Database
from app.services import claims, jobs
from app.services.claims import Claim, Point

LEASE: dict[str, Any] = {"lease_seconds": 30.0, "max_attempts": 3}


def add_job(database: Database, **fields: Any) -> str:
    with database.writing() as session:
        return jobs.submit(session, kind="train", spec={"method": "standard"}, **fields).id


def take(database: Database, job_id: str, owner: str = "a") -> Claim | None:
    with database.writing() as session:
        return claims.claim(session, job_id, owner=owner, **LEASE)


def must_take(database: Database, job_id: str, owner: str = "a") -> Claim:
    claim = take(database, job_id, owner)
    assert claim is not None
    return claim


def expire(database: Database, job_id: str) -> None:
    with database.writing() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=epoch_now() - 1))


def read(database: Database, job_id: str) -> Job:
    with database.session() as session:
        return jobs.get(session, job_id)


def test_a_queued_job_is_claimed_once(database: Database) -> None:
    job_id = add_job(database)
    first = must_take(database, job_id, "a")
    assert (first.attempt, first.owner) == (1, "a")
    assert take(database, job_id, "b") is None
    assert read(database, job_id).status == "running"


def test_of_many_workers_at_once_one_gets_the_job(database: Database) -> None:
    job_id = add_job(database)
    barrier = threading.Barrier(8)
    got: list[Claim | None] = []

    def worker(name: str) -> None:
        barrier.wait()
        got.append(take(database, job_id, name))

    threads = [threading.Thread(target=worker, args=(f"w{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8
    assert sum(claim is not None for claim in got) == 1
    assert read(database, job_id).attempt == 1


def test_an_expired_lease_lets_another_worker_in_and_fences_the_first(database: Database) -> None:
    job_id = add_job(database)
    stale = must_take(database, job_id, "a")
    expire(database, job_id)
    fresh = must_take(database, job_id, "b")
    assert fresh.attempt == 2
    point = Point("loss", 1, 0.5)
    with database.writing() as session:
        lease = claims.renew(session, stale, lease_seconds=30, progress={"done": 9}, metrics=[point])
        assert not lease.held
        assert claims.record_checkpoint(session, stale, sha256="0" * 64, size=1, step=1) is None
        assert not claims.finish(session, stale, status="succeeded", result={"model": "stale@1"})
        assert not claims.release(session, stale)
        assert not claims.holds(session, stale)
    job = read(database, job_id)
    assert (job.status, job.owner, job.result, job.progress) == ("running", "b", None, None)
    with database.session() as session:
        assert jobs.metric_series(session, job_id) == {}
        assert claims.checkpoints(session, job_id) == []


def test_the_same_owner_with_an_older_attempt_is_stale_too(database: Database) -> None:
    job_id = add_job(database)
    stale = must_take(database, job_id, "a")
    expire(database, job_id)
    fresh = must_take(database, job_id, "a")
    with database.writing() as session:
        assert not claims.finish(session, stale, status="failed")
        assert claims.finish(session, fresh, status="succeeded", result={})


def test_renewing_keeps_the_job(database: Database) -> None:
    job_id = add_job(database)
    claim = must_take(database, job_id)
    expire(database, job_id)
    with database.writing() as session:
        assert claims.renew(session, claim, lease_seconds=30) == (True, False)
    assert take(database, job_id, "b") is None


def test_a_job_that_keeps_dying_fails_with_the_cause(database: Database) -> None:
    job_id = add_job(database)
    for owner in ("a", "b", "c"):
        must_take(database, job_id, owner)
        expire(database, job_id)
    assert take(database, job_id, "d") is None
    with database.writing() as session:
        assert [job.id for job in claims.fail_exhausted(session, max_attempts=3)] == [job_id]
    job = read(database, job_id)
    assert job.status == "failed"
    assert job.error is not None and "3 times" in job.error["detail"] and "the worker died" in job.error["detail"]


def test_a_job_that_waits_beyond_its_attempts_fails_too(database: Database) -> None:
    """Handed back by a worker that allowed more: nobody may claim it, and it would hide those behind it."""
    job_id = add_job(database)
    for owner in ("a", "b"):
        must_take(database, job_id, owner)
        expire(database, job_id)
    claim = must_take(database, job_id, "c")
    with database.writing() as session:
        assert claims.release(session, claim)
        assert claims.fail_exhausted(session, max_attempts=3) == []
        assert [job.id for job in claims.fail_exhausted(session, max_attempts=2)] == [job_id]
    job = read(database, job_id)
    assert job.status == "failed" and job.failures == 2


def test_a_new_checkpoint_counts_deaths_from_zero(database: Database) -> None:
    job_id = add_job(database)
    for number in range(6):
        claim = must_take(database, job_id, f"w{number}")
        with database.writing() as session:
            assert claims.record_checkpoint(session, claim, sha256=f"{number:064x}", size=1, step=number) is not None
        expire(database, job_id)
    assert read(database, job_id).failures == 0


def test_a_repeated_checkpoint_is_no_progress(database: Database) -> None:
    job_id = add_job(database)
    for owner in ("a", "b", "c"):
        claim = must_take(database, job_id, owner)
        with database.writing() as session:
            claims.record_checkpoint(session, claim, sha256="1" * 64, size=1, step=7)
        expire(database, job_id)
    assert take(database, job_id, "d") is None


def test_the_last_two_checkpoints_are_kept(database: Database) -> None:
    claim = must_take(database, add_job(database))
    dropped = []
    for step in range(4):
        with database.writing() as session:
            dropped.append(claims.record_checkpoint(session, claim, sha256=f"{step:064x}", size=1, step=step))
    assert dropped == [[], [], [f"{0:064x}"], [f"{1:064x}"]]
    with database.session() as session:
        assert [found.step for found in claims.checkpoints(session, claim.job_id)] == [3, 2]


def test_deaths_of_the_child_count_and_a_graceful_stop_does_not(database: Database) -> None:
    job_id = add_job(database)
    for _ in range(5):
        claim = must_take(database, job_id)
        with database.writing() as session:
            assert claims.release(session, claim)
    for expected in ("queued", "queued", "failed"):
        claim = must_take(database, job_id)
        with database.writing() as session:
            assert claims.release(session, claim, failure="killed by SIGSEGV", max_attempts=3)
        assert read(database, job_id).status == expected
    error = read(database, job_id).error
    assert error is not None and "SIGSEGV" in error["detail"]


def test_metrics_of_a_repeated_step_replace_the_earlier_ones(database: Database) -> None:
    claim = must_take(database, add_job(database))
    for value in (1.0, 2.0):
        with database.writing() as session:
            claims.renew(session, claim, lease_seconds=30, metrics=[Point("loss", 5, value), Point("lr", 5, 0.1)])
    with database.session() as session:
        assert jobs.metric_series(session, claim.job_id) == {"loss": [[5, 2.0]], "lr": [[5, 0.1]]}


def test_claimable_lists_the_oldest_of_its_queues(database: Database) -> None:
    first, second = add_job(database), add_job(database)
    with database.writing() as session:
        other = jobs.submit(session, kind="evaluate", spec={}).id
    with database.session() as session:
        assert [job.id for job in claims.claimable(session, queues=["train"], limit=5)] == [first, second]
        assert [job.id for job in claims.claimable(session, queues=["evaluate"])] == [other]
    must_take(database, first)
    with database.session() as session:
        assert [job.id for job in claims.claimable(session, queues=["train"])] == [second]
    expire(database, first)
    with database.session() as session:
        assert [job.id for job in claims.claimable(session, queues=["train"])] == [first]


def test_cancel_of_a_waiting_job_is_final_at_once(database: Database) -> None:
    job_id = add_job(database)
    with database.writing() as session:
        assert jobs.cancel(session, job_id).status == "cancelled"
    assert take(database, job_id) is None
    with database.writing() as session, pytest.raises(ConflictError, match="cancelled already"):
        jobs.cancel(session, job_id)


def test_cancel_of_a_running_job_is_told_with_the_heartbeat(database: Database) -> None:
    job_id = add_job(database)
    claim = must_take(database, job_id)
    with database.writing() as session:
        assert jobs.cancel(session, job_id).status == "running"
        assert claims.renew(session, claim, lease_seconds=30) == (True, True)
        assert claims.finish(session, claim, status="cancelled")
    assert read(database, job_id).status == "cancelled"


@pytest.mark.parametrize("failure", [None, "killed by SIGSEGV"])
def test_a_job_given_back_after_its_cancel_is_cancelled(database: Database, failure: str | None) -> None:
    """The cancel came after the last heartbeat, so its worker stopped or died for a reason of its own."""
    job_id = add_job(database)
    claim = must_take(database, job_id)
    with database.writing() as session:
        assert not claims.renew(session, claim, lease_seconds=30).cancel
        assert jobs.cancel(session, job_id).status == "running"
    with database.writing() as session:
        assert claims.release(session, claim, failure=failure, max_attempts=1)
    job = read(database, job_id)
    assert (job.status, job.error, job.owner, job.lease_until) == ("cancelled", None, None, None)
    assert job.finished_at is not None


def test_a_cancelled_job_whose_worker_died_is_cancelled_and_not_run_again(database: Database) -> None:
    job_id = add_job(database)
    must_take(database, job_id)
    with database.writing() as session:
        jobs.cancel(session, job_id)
    expire(database, job_id)
    assert take(database, job_id, "b") is None
    with database.writing() as session:
        claims.fail_exhausted(session, max_attempts=3)
    assert read(database, job_id).status == "cancelled"


def test_resume_queues_a_final_job_again_and_keeps_its_attempts(database: Database) -> None:
    job_id = add_job(database)
    claim = must_take(database, job_id)
    with database.writing() as session, pytest.raises(ConflictError):
        jobs.resume(session, job_id)
    with database.writing() as session:
        claims.finish(session, claim, status="failed", error={"detail": "no"})
    with database.writing() as session:
        job = jobs.resume(session, job_id)
        assert (job.status, job.error, job.finished_at) == ("queued", None, None)
    assert must_take(database, job_id, "b").attempt == 2


def test_a_finished_job_never_changes(database: Database) -> None:
    job_id = add_job(database)
    claim = must_take(database, job_id)
    with database.writing() as session:
        assert claims.finish(session, claim, status="succeeded", result={"x": 1})
        assert not claims.finish(session, claim, status="failed", error={})
        assert not claims.renew(session, claim, lease_seconds=30).held
        assert not claims.release(session, claim)
    with database.writing() as session, pytest.raises(ConflictError):
        jobs.resume(session, job_id)
    assert read(database, job_id).result == {"x": 1}


def test_leases_that_end_far_ahead_are_shortened_and_not_ended(database: Database) -> None:
    """As they do once the clock was set back: who lives renews, who is dead is found after one lease."""
    far, near = add_job(database), add_job(database)
    claim = must_take(database, far)
    must_take(database, near)
    with database.writing() as session:
        session.execute(update(Job).where(Job.id == far).values(lease_until=epoch_now() + 3600))
    with database.writing() as session:
        assert claims.shorten_leases(session, lease_seconds=30) == 1
    assert take(database, far, "b") is None and take(database, near, "b") is None
    left = (read(database, far).lease_until or 0) - (read(database, near).lease_until or 0)
    assert 0 <= left < 20
    with database.writing() as session:
        assert claims.renew(session, claim, lease_seconds=30).held


def test_what_is_written_twice_because_the_answer_was_lost_is_written_once(database: Database) -> None:
    claim = must_take(database, add_job(database))
    for _ in range(2):
        with database.writing() as session:
            assert claims.record_checkpoint(session, claim, sha256="1" * 64, size=1, step=7) == []
    with database.writing() as session:
        assert [checkpoint.step for checkpoint in claims.checkpoints(session, claim.job_id)] == [7]
        assert not claims.succeeded(session, claim)
        assert claims.finish(session, claim, status="succeeded", result={})
    with database.writing() as session:
        assert not claims.finish(session, claim, status="succeeded", result={})
        assert claims.succeeded(session, claim)
