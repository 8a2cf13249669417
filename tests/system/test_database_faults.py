"""PostgreSQL killed under the API and under a worker with a job at hand, and started again on the same data."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.records.session import Database
from app.storage import Storage
from migrations import upgrade
from tests.app.api.conftest import assert_problem
from tests.conftest import make_settings, new_broker, new_database
from tests.deployment import Deployment
from tests.killable import PostgresServer, postgres_folder
from tests.servers import wait_for
from tests.system.trainings import (
    ENDLESS,
    PRETRAIN,
    QUICK,
    checkpoints,
    child_of,
    children_of,
    lives,
    start_api,
    unbroken,
    wait_for_checkpoint,
    weights,
)

LONG = {**PRETRAIN, "epochs": 90}


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """One that a test may kill; it keeps what it has promised."""
    with postgres_folder() as folder, PostgresServer(folder, durable=True) as server:
        yield server


@pytest.fixture
def deployment(postgres: PostgresServer, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    urls = {
        "database_url": new_database(postgres.url),
        "broker_url": new_broker(request.getfixturevalue("redis_server")),
    }
    settings = make_settings("sqlite+filesystem", request, tmp_path / "home", lease_seconds=150.0, **urls)
    upgrade(settings)
    made = Deployment(settings, Database(settings.database_url), Storage(settings.storage_url), tmp_path / "log")
    yield made
    made.close()


def away(postgres: PostgresServer, seconds: float) -> None:
    postgres.kill()
    time.sleep(seconds)
    postgres.start()


def test_a_training_goes_on_through_deaths_of_the_database(deployment: Deployment, postgres: PostgresServer) -> None:
    """Checkpoints come several times a second: some could not be recorded at once. Then the child dies meanwhile."""
    job_id = deployment.submit("pretrain", LONG)
    worker = deployment.start_worker()
    for _ in range(2):
        wait_for_checkpoint(deployment, job_id, beyond=newest(deployment, job_id))
        away(postgres, 1.5)
    assert deployment.job(job_id).attempt == 1, "a checkpoint that has to wait does not end an attempt"
    assert "waiting for the database" in deployment.log.read_text()

    wait_for_checkpoint(deployment, job_id, beyond=newest(deployment, job_id))
    postgres.kill()
    os.kill(child_of(worker), signal.SIGKILL)
    time.sleep(2)
    postgres.start()
    job = deployment.wait(job_id)
    assert (job.status, job.attempt) == ("succeeded", 2)
    threads = deployment.settings.torch_threads
    expected = unbroken(LONG, threads=threads)
    assert weights(deployment, job_id) == expected
    assert not (deployment.settings.home / "storage" / "checkpoints" / job_id).exists()


def newest(deployment: Deployment, job_id: str) -> int:
    return max((found.step for found in checkpoints(deployment, job_id)), default=0)


def test_a_job_that_ends_without_the_database_is_not_done_again(
    deployment: Deployment, postgres: PostgresServer
) -> None:
    """Its child ends in the outage; the worker keeps what it made until it can be written."""
    job_id = deployment.submit("pretrain", QUICK)
    worker = deployment.start_worker(lease_seconds=600.0)  # a busy machine may take minutes
    wait_for(lambda: bool(children_of(worker.pid)), seconds=150, what="the child")
    child = child_of(worker)
    postgres.kill()
    wait_for(lambda: not lives(child), seconds=150, what="the child's end")
    time.sleep(2)
    postgres.start()
    job = deployment.wait(job_id)
    assert (job.status, job.attempt) == ("succeeded", 1)


def test_a_worker_stops_in_time_without_the_database(deployment: Deployment, postgres: PostgresServer) -> None:
    """It cannot hand its job back then; another takes it after the lease, without a loss."""
    job_id = deployment.submit("pretrain", ENDLESS)
    worker = deployment.start_worker(stop_seconds=5.0, lease_seconds=8.0)
    wait_for_checkpoint(deployment, job_id)
    postgres.kill()
    worker.terminate()
    assert worker.wait(timeout=60) is not None
    postgres.start()
    deployment.start_worker(lease_seconds=8.0)
    wait_for(lambda: deployment.job(job_id).attempt == 2, seconds=150, what="the second attempt")


def test_a_submission_without_the_database_is_refused_and_repeated(
    deployment: Deployment, postgres: PostgresServer
) -> None:
    _, url = start_api(deployment)

    def post() -> httpx.Response:
        return httpx.post(f"{url}/jobs/pretrain", json=QUICK, headers={"Idempotency-Key": "one"}, timeout=30)

    postgres.kill()
    refused = post()
    assert_problem(refused, 503, says="the database does not answer")
    assert int(refused.headers["Retry-After"]) > 0
    postgres.start()
    accepted, repeated = post(), post()
    assert accepted.status_code == repeated.status_code == 202
    assert accepted.json()["id"] == repeated.json()["id"]
