"""`clead reaper`: jobs of dead workers end although no worker lives, on both pairs of database and broker."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from sqlalchemy import select

from app.queue import broker_folder
from app.records import WorkerRecord
from app.records.session import Database
from app.services import jobs
from app.storage import Storage
from migrations import upgrade
from tests.conftest import make_settings
from tests.deployment import Deployment
from tests.servers import wait_for
from tests.system.trainings import PRETRAIN as BODY
from tests.system.trainings import wait_for_checkpoint

LONG = {**BODY, "epochs": 2000}


def start_reaper(deployment: Deployment) -> subprocess.Popen[bytes]:
    return deployment.start([sys.executable, "-m", "app.cli", "reaper"], alive_file=alive_file(deployment))


def alive_file(deployment: Deployment) -> Path:
    return deployment.settings.home / "alive"


def wait_for_rounds(deployment: Deployment, *, count: int) -> None:
    """Until the reaper has looked ``count`` more times."""
    path, seen = alive_file(deployment), set[int]()

    def looked() -> bool:
        if path.exists():
            seen.add(path.stat().st_mtime_ns)
        return len(seen) > count

    wait_for(looked, seconds=60, what=f"{count} rounds of the reaper")


def waiting_messages(deployment: Deployment) -> int:
    if deployment.settings.broker_url.startswith("filesystem:"):
        folder = broker_folder(deployment.settings) / "messages"
        return sum(path.is_file() for path in folder.iterdir()) if folder.exists() else 0
    with redis.Redis.from_url(deployment.settings.broker_url) as client:
        return int(client.llen("train"))


def test_without_a_worker_lost_jobs_end_and_others_wait(deployment: Deployment) -> None:
    """Killed workers leave one job that may not be tried again, one to be cancelled, and one that still may run."""
    exhausted = deployment.submit("pretrain", LONG)
    worker = deployment.start_worker(max_attempts=1, checkpoint_seconds=3600)
    deployment.wait_for_step(exhausted, 5)
    deployment.kill(worker)
    with deployment.database.writing() as session:
        jobs.get(session, exhausted).failures = deployment.settings.max_attempts - 1

    cancelled = deployment.submit("pretrain", LONG)
    worker = deployment.start_worker()
    wait_for_checkpoint(deployment, cancelled)
    deployment.kill(worker)
    with deployment.database.writing() as session:
        jobs.cancel(session, cancelled)
    queued = deployment.submit("pretrain", LONG, announce=False)
    before = waiting_messages(deployment)

    reaper = start_reaper(deployment)
    assert deployment.wait(cancelled).status == "cancelled"
    job = deployment.wait(exhausted)
    assert job.status == "failed" and job.error is not None and "died 3 times" in job.error["detail"]
    wait_for_rounds(deployment, count=3)
    assert deployment.job(queued).status == "queued"
    assert waiting_messages(deployment) == before, "nothing is sent while nobody listens"
    with deployment.database.session() as session:
        workers = session.scalars(select(WorkerRecord.pid)).all()
    assert reaper.pid not in workers, "it is no worker: /readyz must not count it"
    reaper.terminate()
    assert reaper.wait(timeout=30) == 0


def test_a_job_that_may_be_tried_again_is_left_to_the_next_worker(deployment: Deployment) -> None:
    job_id = deployment.submit("pretrain", LONG)
    worker = deployment.start_worker()
    wait_for_checkpoint(deployment, job_id)
    deployment.kill(worker)
    start_reaper(deployment)
    time.sleep(deployment.settings.lease_seconds)
    wait_for_rounds(deployment, count=2)
    assert deployment.job(job_id).status == "running"
    deployment.start_worker()
    wait_for(lambda: deployment.job(job_id).attempt == 2, seconds=60, what="the second attempt")


def test_the_reaper_waits_for_its_database(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    settings = make_settings("sqlite+filesystem", request, tmp_path / "home")
    deployment = Deployment(settings, Database(settings.database_url), Storage(settings.storage_url), tmp_path / "log")
    try:
        reaper = start_reaper(deployment)
        wait_for(lambda: "could not reach the database" in deployment.tail(), what="a complaint")
        assert not alive_file(deployment).exists(), "a health check sees that it does not get on"
        upgrade(settings)
        wait_for_rounds(deployment, count=1)
        assert reaper.poll() is None
    finally:
        deployment.close()
