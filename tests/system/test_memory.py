"""Memory runs out in a job's process: the job fails with that cause after its attempts, and the worker lives."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.deployment import Deployment
from tests.servers import wait_for
from tests.system.trainings import ENDLESS, PRETRAIN, QUICK, children_of

GIB = 1024**3
# Its weights, gradients and momenta have some gigabytes.
HUGE = {**PRETRAIN, "backbone": {"name": "resnet50", "width": 256}, "batch_size": 640}


def test_a_job_over_its_memory_limit_fails_with_that_cause(deployment: Deployment) -> None:
    huge = deployment.submit("pretrain", HUGE)
    worker = deployment.start_worker(job_memory_bytes=3 * GIB // 2)
    job = deployment.wait(huge)
    assert (job.status, job.attempt) == ("failed", deployment.settings.max_attempts)
    assert job.error is not None
    assert "3 times" in job.error["detail"] and "does not fit into memory" in job.error["detail"]
    assert deployment.wait(deployment.submit("pretrain", QUICK)).status == "succeeded", "in the same limit"
    assert worker.poll() is None


def test_a_child_that_the_system_kills_again_and_again_fails_the_job(deployment: Deployment) -> None:
    """What the kernel does when memory runs out; it takes the child first, whose score says so."""
    job_id = deployment.submit("pretrain", ENDLESS)
    worker = deployment.start_worker(checkpoint_seconds=3600)
    killed: set[int] = set()
    while len(killed) < deployment.settings.max_attempts:
        wait_for(lambda: bool(first_to_go(worker.pid) - killed), seconds=150, what="the child of another attempt")
        (child,) = first_to_go(worker.pid) - killed
        os.kill(child, signal.SIGKILL)
        killed.add(child)
    job = deployment.wait(job_id)
    assert job.status == "failed" and job.error is not None
    assert "3 times" in job.error["detail"]
    assert "killed by SIGKILL, as the system does when memory runs out" in job.error["detail"]
    assert deployment.wait(deployment.submit("pretrain", QUICK)).status == "succeeded"
    assert worker.poll() is None


def first_to_go(worker: int) -> set[int]:
    """The worker's children that the kernel would kill before it."""
    return {child for child in children_of(worker) if score(child) > score(worker)}


def score(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())
    except FileNotFoundError:
        return 0
