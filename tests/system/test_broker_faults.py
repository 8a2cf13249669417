"""Redis killed, frozen, or cut off without a word, while jobs are submitted and while workers wait and work."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.records.session import Database
from app.storage import Storage
from migrations import upgrade
from tests.cables import Cable
from tests.conftest import make_settings, new_database
from tests.deployment import Deployment
from tests.killable import RedisServer
from tests.servers import free_port, wait_for
from tests.system.trainings import ENDLESS, QUICK, start_api


@pytest.fixture
def cable() -> Iterator[Cable]:
    with Cable() as made:
        yield made


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(free_port(), tmp_path) as server:
        yield server


def deploy(tmp_path: Path, request: pytest.FixtureRequest, broker: RedisServer) -> Deployment:
    server = request.getfixturevalue("postgres_server")
    urls = {"database_url": new_database(server), "broker_url": broker.url}
    settings = make_settings("sqlite+filesystem", request, tmp_path / "home", lease_seconds=10.0, **urls)
    upgrade(settings)
    return Deployment(settings, Database(settings.database_url), Storage(settings.storage_url), tmp_path / "log")


def submit(url: str, count: int) -> list[str]:
    """Ids of so many quick jobs, each answered 202."""
    ids = []
    for seed in range(count):
        # The timeout ends a hang; the service gives the broker less than a second.
        response = httpx.post(f"{url}/jobs/pretrain", json={**QUICK, "seed": seed}, timeout=60)
        assert response.status_code == 202, response.text
        ids.append(response.json()["id"])
    return ids


def test_redis_frozen_while_jobs_are_submitted(
    tmp_path: Path, request: pytest.FixtureRequest, broker: RedisServer
) -> None:
    """Longer than the clients' socket timeout. API and worker were connected before, and are good for more after."""
    deployment = deploy(tmp_path, request, broker)
    try:
        _, url = start_api(deployment)
        deployment.start_worker()
        assert deployment.wait(*submit(url, 1)).status == "succeeded"
        broker.freeze()
        began = time.monotonic()
        ids = submit(url, 4)  # all of them answered while Redis is still frozen
        time.sleep(max(0.0, 12 - (time.monotonic() - began)))
        broker.thaw()
        assert [deployment.wait(job_id).status for job_id in ids] == ["succeeded"] * 4
        assert [deployment.job(job_id).attempt for job_id in ids] == [1] * 4
        assert deployment.wait(*submit(url, 1)).status == "succeeded"
    finally:
        deployment.close()


def test_redis_cut_off_without_a_word(tmp_path: Path, request: pytest.FixtureRequest, cable: Cable) -> None:
    """Packets are dropped while jobs are submitted; Redis dies behind the cut, so that nobody sees its end."""
    options = {"host": cable.address, "prefix": cable.prefix}
    with RedisServer(6379, tmp_path, **options) as broker:  # type: ignore[arg-type]
        deployment = deploy(tmp_path, request, broker)
        try:
            api, url = start_api(deployment)
            deployment.start_worker()
            assert deployment.wait(*submit(url, 1)).status == "succeeded"
            cable.cut()
            ids = submit(url, 3)
            broker.kill()
            broker.start_blind()
            cable.mend()
            assert [deployment.wait(job_id).status for job_id in ids] == ["succeeded"] * 3
            assert deployment.wait(*submit(url, 1)).status == "succeeded"
            cable.cut()
            submit(url, 1)
            api.terminate()
            assert api.wait(timeout=30) is not None, "a thread that waits for the broker does not hold the API's end"
        finally:
            deployment.close()


def test_a_worker_consumes_again_after_every_death_of_redis(
    tmp_path: Path, request: pytest.FixtureRequest, broker: RedisServer
) -> None:
    """Celery's workers are known to stay connected and deaf after a flap: idle, and with a job at hand."""
    deployment = deploy(tmp_path, request, broker)
    try:
        deployment.start_worker()
        wait_for(lambda: " serves " in deployment.log.read_text(), seconds=150, what="the worker")
        for _ in range(2):
            broker.kill()
            broker.start()
        assert deployment.wait(deployment.submit("pretrain", QUICK)).status == "succeeded"

        job_id = deployment.submit("pretrain", {**QUICK, "epochs": 40})
        deployment.wait_for_step(job_id, 10)
        broker.kill()
        waiting = deployment.submit("pretrain", QUICK)
        deployment.wait_for_step(job_id, 60)
        broker.start()
        assert deployment.wait(job_id).status == deployment.wait(waiting).status == "succeeded"
        assert [deployment.job(found).attempt for found in (job_id, waiting)] == [1, 1]
    finally:
        deployment.close()


def test_a_worker_that_never_found_redis_works_and_stops_in_order(
    tmp_path: Path, request: pytest.FixtureRequest, broker: RedisServer
) -> None:
    deployment = deploy(tmp_path, request, broker)
    try:
        broker.kill()
        worker = deployment.start_worker(reaper_seconds=1.0)
        assert deployment.wait(deployment.submit("pretrain", QUICK)).status == "succeeded"
        worker.terminate()
        assert ends(worker, seconds=100) == 0, deployment.tail()
        assert "Traceback" not in deployment.tail()
    finally:
        deployment.close()


@pytest.mark.parametrize("harm", ["killed", "frozen"])
def test_a_worker_stops_in_order_without_redis(
    tmp_path: Path, request: pytest.FixtureRequest, broker: RedisServer, harm: str
) -> None:
    """Its job is handed back with a checkpoint, and the process ends within the grace."""
    deployment = deploy(tmp_path, request, broker)
    try:
        job_id = deployment.submit("pretrain", ENDLESS)
        worker = deployment.start_worker(stop_seconds=20.0)
        deployment.wait_for_step(job_id, 10)
        broker.kill() if harm == "killed" else broker.freeze()
        worker.terminate()
        assert ends(worker, seconds=100) == 0, deployment.tail()
        job = deployment.job(job_id)
        assert (job.status, job.failures, job.owner) == ("queued", 0, None)
    finally:
        deployment.close()


def ends(process: subprocess.Popen[bytes], *, seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
