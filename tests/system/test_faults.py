"""Kill, lose, repeat, cancel, resume: on both pairs of database and broker, with real worker processes.

The measure of a training that went through a fault is the SHA-256 of its weights: it equals that of an unbroken run.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import redis

from app.queue import broker_folder
from app.records.session import Database
from app.services import jobs, models
from app.settings import Settings
from app.storage import Storage
from migrations import upgrade
from tests.conftest import make_settings
from tests.deployment import Deployment
from tests.servers import free_port, redis_on, wait_for
from tests.system.trainings import (
    ENDLESS,
    PRETRAIN,
    QUICK,
    checkpoint_file,
    checkpoints,
    child_of,
    lives,
    start_api,
    unbroken,
    wait_for_checkpoint,
    weights,
)


@pytest.fixture(scope="module")
def sha256() -> str:
    """SHA-256 of the weights of a run that nothing happened to."""
    return unbroken(PRETRAIN, threads=Settings().torch_threads)


def test_sigkill_of_child_worker_machine_and_api_in_one_pretraining(deployment: Deployment, sha256: str) -> None:
    """Each dies in the middle of one pretraining that was posted over HTTP; every successor goes on."""
    api, url = start_api(deployment)
    job_id = httpx.post(f"{url}/jobs/pretrain", json=PRETRAIN, timeout=30).raise_for_status().json()["id"]
    worker = deployment.start_worker()
    wait_for_checkpoint(deployment, job_id)
    os.kill(child_of(worker), signal.SIGKILL)
    wait_for(lambda: deployment.job(job_id).attempt == 2, seconds=60, what="the second attempt")
    deployment.kill(api)
    deployment.wait_for_step(job_id, 120)
    orphan = child_of(worker)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    wait_for(lambda: not lives(orphan), seconds=10, what="the end of the orphan")
    worker = deployment.start_worker()
    wait_for(lambda: deployment.job(job_id).attempt == 3, seconds=60, what="the third attempt")
    deployment.wait_for_step(job_id, 240)
    deployment.kill(worker)
    deployment.start_worker()
    _, url = start_api(deployment)
    assert deployment.wait(job_id).status == "succeeded"
    job = httpx.get(f"{url}/jobs/{job_id}", timeout=30).raise_for_status().json()
    assert (job["status"], job["attempt"], job["result"]["model"]) == ("succeeded", 4, "tiny@1")
    assert weights(deployment, job_id) == sha256
    assert checkpoints(deployment, job_id) == []


def test_graceful_stop_hands_over_at_once_and_cancel_and_resume_go_on(deployment: Deployment, sha256: str) -> None:
    """SIGTERM: checkpoint, back to queued, no death counted. Then cancel, a damaged checkpoint, and resume."""
    job_id = deployment.submit("pretrain", PRETRAIN)
    worker = deployment.start_worker()
    deployment.wait_for_step(job_id, 60)
    worker.terminate()
    assert worker.wait(timeout=60) == 0
    job = deployment.job(job_id)
    assert (job.status, job.failures, job.owner) == ("queued", 0, None)
    stopped_at = checkpoints(deployment, job_id)[-1].step
    assert stopped_at >= 60

    deployment.start_worker()
    deployment.wait_for_step(job_id, stopped_at + 40)
    with deployment.database.writing() as session:
        jobs.cancel(session, job_id)
    assert deployment.wait(job_id).status == "cancelled"
    kept = checkpoints(deployment, job_id)
    assert len(kept) == 2 and kept[-1].step > stopped_at
    # A cancel keeps the last checkpoint; damage it, and the one before serves.
    damage(deployment, job_id, kept[-1].sha256)

    with deployment.database.writing() as session:
        jobs.resume(session, job_id)
    assert deployment.wait(job_id).status == "succeeded"
    assert weights(deployment, job_id) == sha256


def damage(deployment: Deployment, job_id: str, sha256: str) -> None:
    path = checkpoint_file(deployment, job_id, sha256)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_cancel_reaches_a_running_child_and_keeps_a_checkpoint(deployment: Deployment) -> None:
    """A cancel reaches the child long before its end and leaves a checkpoint of where it stopped.

    That the loop does no further step once it is told is asserted to the step in tests/models/test_training.py.
    """
    job_id = deployment.submit("pretrain", ENDLESS)
    deployment.start_worker(checkpoint_seconds=3600)
    deployment.wait_for_step(job_id, 10)
    with deployment.database.writing() as session:
        jobs.cancel(session, job_id)
    job = deployment.wait(job_id, seconds=30)
    assert job.status == "cancelled" and job.progress is not None
    (checkpoint,) = checkpoints(deployment, job_id)
    # Progress is reported ten times a second at most, so the last report is never ahead of the checkpoint.
    assert job.progress["done"] <= checkpoint.step < 40_000


def test_messages_twice_or_lost_change_nothing(deployment: Deployment) -> None:
    twice = deployment.submit("pretrain", QUICK, announce=False)
    lost = deployment.submit("pretrain", {**QUICK, "seed": 4})
    wipe_broker(deployment)
    for _ in range(5):
        assert deployment.publish(twice)
    deployment.start_worker()
    assert deployment.wait(twice).status == deployment.wait(lost).status == "succeeded"
    assert deployment.publish(twice)
    deployment.publish(lost)
    after = deployment.submit("pretrain", {**QUICK, "seed": 5})
    assert deployment.wait(after).status == "succeeded"
    assert [deployment.job(job_id).attempt for job_id in (twice, lost)] == [1, 1]
    with deployment.database.session() as session:
        assert [version.version for version in models.list_versions(session, "tiny")] == [3, 2, 1]


def wipe_broker(deployment: Deployment) -> None:
    """Everything that the broker held is gone."""
    url = deployment.settings.broker_url
    if url.startswith("filesystem:"):
        shutil.rmtree(broker_folder(deployment.settings))
        return
    with redis.Redis.from_url(url) as client:
        assert client.dbsize() > 0
        client.flushdb()


def test_broker_down_at_submit(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The job waits in the database; once the broker is back, an idle worker finds it."""
    port = free_port()
    settings = make_settings("sqlite+filesystem", request, tmp_path / "home", broker_url=f"redis://127.0.0.1:{port}/0")
    upgrade(settings)
    deployment = Deployment(settings, Database(settings.database_url), Storage(settings.storage_url), tmp_path / "log")
    try:
        job_id = deployment.submit("pretrain", QUICK, announce=False)
        assert not deployment.publish(job_id)
        with redis_on(port, tmp_path):
            deployment.start_worker()
            assert deployment.wait(job_id).status == "succeeded"
    finally:
        deployment.close()


@pytest.mark.parametrize("parent", ["gone", "asks"])
def test_an_embedded_worker_ends_with_its_parent(deployment: Deployment, parent: str) -> None:
    """Or when that one asks by a signal, while the worker still listens to it."""
    reading, writing = os.pipe()
    with deployment.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.main", "--embedded"],
            stdin=reading,
            stdout=log,
            stderr=log,
            env=deployment.environment(),
        )
    deployment.processes.append(process)
    os.close(reading)
    job_id = deployment.submit("pretrain", PRETRAIN)
    deployment.wait_for_step(job_id, 20)
    if parent == "asks":
        process.terminate()
        assert process.wait(timeout=60) == 0
    os.close(writing)
    assert process.wait(timeout=60) == 0
    assert deployment.job(job_id).status == "queued"
    assert checkpoints(deployment, job_id)


def test_a_job_that_cannot_work_fails_with_its_reason(deployment: Deployment) -> None:
    """A Python exception in the child is the job's own fault: no second attempt, the reason without a traceback."""
    # Each step multiplies the weights by 1 - lr × weight_decay = -999.
    exploding = {
        "method": "standard",
        "backbone": PRETRAIN["backbone"],
        "dataset": PRETRAIN["dataset"],
        "optimizer": {"name": "sgd", "lr": 100.0, "weight_decay": 10.0},
        "batch_size": 32,
        "epochs": 20,
    }
    job_id = deployment.submit("train", exploding)
    deployment.start_worker()
    job = deployment.wait(job_id)
    assert (job.status, job.attempt) == ("failed", 1)
    assert job.error is not None and job.error["title"] == "The training diverged"
    assert "step" in job.error["detail"] and "Traceback" not in job.error["detail"]
