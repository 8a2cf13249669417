"""Clocks that are wrong by an hour. The workers run under libfaketime, which is Debian's package of that name."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import update

from app.records import Job
from app.records.session import Database
from app.services import jobs, workers
from app.storage import Storage
from migrations import upgrade
from tests.conftest import make_settings
from tests.deployment import Deployment
from tests.servers import wait_for
from tests.system.trainings import ENDLESS, wait_for_checkpoint


def wrong_clock(offset: str) -> dict[str, str]:
    """Environment of a process whose clock is off, such as ``-1h``; how fast it goes, and durations, stay right.

    libfaketime then breaks Python's ``time.sleep``, which a worker with Redis and PostgreSQL does not need.
    """
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert libraries, "libfaketime is not installed; run tests/system/install-servers"
    steady = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"}
    return {"LD_PRELOAD": str(libraries[0]), "FAKETIME": offset, **steady}


def deploy(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Deployment:
    """With a lease that outlasts a busy machine, and is far shorter than an hour."""
    settings = make_settings(kind, request, tmp_path / "home", lease_seconds=8.0)
    upgrade(settings)
    return Deployment(settings, Database(settings.database_url), Storage(settings.storage_url), tmp_path / "log")


def cancel(deployment: Deployment, job_id: str) -> None:
    with deployment.database.writing() as session:
        jobs.cancel(session, job_id)
    assert deployment.wait(job_id).status == "cancelled"


@pytest.mark.parametrize(("first", "second"), [("-1h", "+1h"), ("+1h", "-1h")])
def test_leases_follow_the_databases_clock(
    request: pytest.FixtureRequest, tmp_path: Path, first: str, second: str
) -> None:
    """Two hours apart: a job is not stolen from a worker that lives, and is taken from one that is dead."""
    deployment = deploy("postgres+redis", request, tmp_path)
    try:
        job_id = deployment.submit("pretrain", ENDLESS)
        holder = deployment.start_worker(variables=wrong_clock(first))
        wait_for_checkpoint(deployment, job_id)
        deployment.start_worker(variables=wrong_clock(second))
        wait_for(lambda: idle(deployment) >= 1, seconds=150, what="the second worker")
        step = (deployment.job(job_id).progress or {})["done"]
        deployment.wait_for_step(job_id, step + 200)  # the second one's reaper looks twice a second
        assert deployment.job(job_id).attempt == 1
        deployment.kill(holder)
        wait_for(lambda: deployment.job(job_id).attempt == 2, seconds=150, what="the second attempt")
        cancel(deployment, job_id)
    finally:
        deployment.close()


def idle(deployment: Deployment) -> int:
    with deployment.database.session() as session:
        return sum(found.job_id is None for found in workers.seen_lately(session, seconds=5))


def test_a_dead_workers_lease_after_the_clock_was_set_back(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """SQLite's clock is the machine's. Set back by an hour, it leaves a lease an hour ahead, as is written here."""
    deployment = deploy("sqlite+filesystem", request, tmp_path)
    try:
        job_id = deployment.submit("pretrain", ENDLESS)
        worker = deployment.start_worker()
        wait_for_checkpoint(deployment, job_id)
        deployment.kill(worker)
        with deployment.database.writing() as session:
            session.execute(update(Job).where(Job.id == job_id).values(lease_until=Job.lease_until + 3600))
        deployment.start_worker()
        wait_for(lambda: deployment.job(job_id).attempt == 2, seconds=150, what="the second attempt")
        cancel(deployment, job_id)
    finally:
        deployment.close()
