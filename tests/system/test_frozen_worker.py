"""A worker that freezes for longer than its lease, as a suspended machine does, and wakes when another has its job."""

from __future__ import annotations

import os
import signal

from app.records import Job
from app.services import models
from tests.deployment import Deployment
from tests.servers import wait_for
from tests.system.trainings import (
    MEDIUM,
    QUICK,
    checkpoints,
    child_of,
    freeze,
    lives,
    unbroken,
    wait_for_checkpoint,
    weights,
)


def test_a_frozen_worker_wakes_to_find_its_writes_fenced_off(deployment: Deployment) -> None:
    """Both run for a while; the first notices, kills its child, and is good for the next job."""
    job_id = deployment.submit("pretrain", MEDIUM)
    frozen = deployment.start_worker()
    wait_for_checkpoint(deployment, job_id)
    child = child_of(frozen)
    freeze(deployment, frozen.pid, child)
    held = deployment.job(job_id)

    second = deployment.start_worker()
    wait_for(lambda: taken_over(deployment.job(job_id), held), seconds=150, what="the second attempt")
    begun = max(checkpoint.step for checkpoint in checkpoints(deployment, job_id))
    wait_for_checkpoint(deployment, job_id, beyond=begun)
    for pid in (child, frozen.pid):
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not lives(child), seconds=150, what="the end of the first child")

    job = deployment.wait(job_id)
    assert (job.status, job.attempt) == ("succeeded", 2)
    assert weights(deployment, job_id) == unbroken(MEDIUM, threads=deployment.settings.torch_threads)
    with deployment.database.session() as session:
        assert [version.version for version in models.list_versions(session, "tiny")] == [1]
    assert "lost its lease" in deployment.log.read_text()

    second.terminate()
    assert second.wait(timeout=60) == 0
    assert deployment.wait(deployment.submit("pretrain", QUICK)).status == "succeeded"
    assert frozen.poll() is None


def taken_over(job: Job, held: Job) -> bool:
    return job.attempt == held.attempt + 1 and job.owner not in (None, held.owner)
