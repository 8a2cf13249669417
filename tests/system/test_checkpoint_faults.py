"""Checkpoints that are torn, or whose writing is cut off: the one before is used, and the weights are the same."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from app.services import jobs
from tests.deployment import Deployment
from tests.servers import wait_for
from tests.system.trainings import (
    MEDIUM,
    checkpoint_file,
    checkpoints,
    child_of,
    unbroken,
    wait_for_checkpoint,
    weights,
)

WIDE = {**MEDIUM, "backbone": {"name": "resnet18", "width": 64, "blocks": [1, 1]}, "epochs": 1}
"""Its checkpoint has megabytes, so that its writing can be caught."""


def tear(path: Path) -> None:
    """As a disk leaves a file whose writing the power cut off."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(0)


def remove(path: Path) -> None:
    path.unlink()


def test_torn_checkpoints_are_found_by_their_hash(deployment: Deployment) -> None:
    """The newest is torn: the one before serves. Then one is empty and one is gone: the job begins anew."""
    job_id = deployment.submit("pretrain", MEDIUM)
    kill_after_two_checkpoints(deployment, job_id)
    before, newest = checkpoints(deployment, job_id)[-2:]
    tear(checkpoint_file(deployment, job_id, newest.sha256))

    worker = deployment.start_worker()
    wait_for(lambda: resumed_from(deployment, f"checkpoint of step {newest.step}"), seconds=150, what="the discovery")
    wait_for(lambda: deployment.job(job_id).attempt == 2, seconds=150, what="the second attempt")
    wait_for_checkpoint(deployment, job_id, beyond=before.step)
    deployment.kill(worker)
    for harm, checkpoint in zip((empty, remove), checkpoints(deployment, job_id), strict=True):
        harm(checkpoint_file(deployment, job_id, checkpoint.sha256))

    deployment.start_worker()
    job = deployment.wait(job_id)
    assert (job.status, job.attempt) == ("succeeded", 3)
    threads = deployment.settings.torch_threads
    assert weights(deployment, job_id) == unbroken(MEDIUM, threads=threads)
    assert checkpoints(deployment, job_id) == []
    assert not (deployment.settings.home / "storage" / "checkpoints" / job_id).exists()


def kill_after_two_checkpoints(deployment: Deployment, job_id: str) -> None:
    worker = deployment.start_worker()
    wait_for(lambda: len(checkpoints(deployment, job_id)) == 2, seconds=150, what="two checkpoints")
    deployment.kill(worker)


def resumed_from(deployment: Deployment, text: str) -> bool:
    return text in deployment.log.read_text(errors="replace")


def freeze_while_writing(worker: subprocess.Popen[bytes], work: Path) -> int:
    """Stop the child in the middle of a checkpoint's writing; its process id."""
    child = child_of(worker)
    deadline = time.monotonic() + 90
    while not list(work.glob("*/.resume-*.tmp")):
        assert time.monotonic() < deadline, "no checkpoint was caught"
    os.kill(child, signal.SIGSTOP)
    return child


@pytest.mark.parametrize("end", ["goes on", "is killed"])
def test_a_cancel_during_the_writing_of_a_checkpoint(deployment: Deployment, end: str) -> None:
    """Whether the child can finish its writing or is killed in it: cancelled, what is recorded is whole, and serves."""
    settings = {"checkpoint_seconds": 0.0, "stop_seconds": 3.0 if end == "is killed" else 60.0}
    job_id = deployment.submit("pretrain", WIDE)
    worker = deployment.start_worker(**settings)
    wait_for_checkpoint(deployment, job_id)
    child = freeze_while_writing(worker, deployment.settings.work_dir)
    with deployment.database.writing() as session:
        jobs.cancel(session, job_id)
    if end == "goes on":
        time.sleep(4 * deployment.settings.heartbeat_seconds)  # the wish reaches the frozen child's pipe
        os.kill(child, signal.SIGCONT)
    assert deployment.wait(job_id).status == "cancelled"
    assert ("did not stop in time" in deployment.log.read_text()) == (end == "is killed")
    kept = checkpoints(deployment, job_id)
    assert kept
    for checkpoint in kept:
        deployment.storage.scoped(f"checkpoints/{job_id}").fetch(checkpoint.sha256, deployment.settings.home / "whole")

    with deployment.database.writing() as session:
        jobs.resume(session, job_id)
    assert deployment.wait(job_id).status == "succeeded"
    threads = deployment.settings.torch_threads
    assert weights(deployment, job_id) == unbroken(WIDE, threads=threads)
