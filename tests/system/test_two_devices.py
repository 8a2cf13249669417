"""A training on two devices, as a job: both processes there, one model; the death of one is no lost run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch

from app.services import models
from models.checkpoints import load_model
from models.specs import ModelCard
from tests.deployment import Deployment
from tests.servers import wait_for
from tests.system.trainings import (
    ENDLESS,
    PRETRAIN,
    QUICK,
    checkpoints,
    child_of,
    children_of,
    lives,
    wait_for_checkpoint,
    weights,
)

PAIR = {**PRETRAIN, "devices": 2, "epochs": 12}


def mates_of(child: int) -> list[int]:
    """The processes beside the first. Python's own helpers have other command lines."""
    return [pid for pid in children_of(child) if b"worker.mate" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def trained(laptop: Deployment, job_id: str) -> dict[str, torch.Tensor]:
    sha256 = weights(laptop, job_id)
    job = laptop.job(job_id)
    assert job.result is not None
    with laptop.database.session() as session:
        card = ModelCard.model_validate(models.resolve(session, job.result["model"]).card)
    path = laptop.storage.fetch(sha256, laptop.settings.home / f"{sha256}.safetensors")
    return load_model(path, card).state_dict()


def test_two_devices_give_the_model_that_one_gives(laptop: Deployment) -> None:
    """Up to rounding; a few updates, because an attack follows signs, which rounding turns."""
    body = {**QUICK, "epochs": 1, "dataset": {"name": "digits", "subset": 96}}
    jobs = [laptop.submit("pretrain", {**body, "devices": devices}) for devices in (1, 2)]
    worker = laptop.start_worker()
    for job_id in jobs:
        assert laptop.wait(job_id).status == "succeeded"
    one, two = (trained(laptop, job_id) for job_id in jobs)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0.05, atol=0.05, msg=name)
    assert worker.poll() is None


def test_killed_processes_cost_attempts_and_nothing_else(laptop: Deployment) -> None:
    job_id = laptop.submit("pretrain", PAIR)
    worker = laptop.start_worker(max_attempts=10)
    for attempt, victim in enumerate(("the mate", "the first", "the worker"), 1):
        step = max((checkpoint.step for checkpoint in checkpoints(laptop, job_id)), default=0)
        wait_for_checkpoint(laptop, job_id, beyond=step)
        first = child_of(worker)
        (mate,) = mates_of(first)
        if victim == "the worker":
            laptop.kill(worker)
            laptop.start_worker(max_attempts=10)
        else:
            os.kill(mate if victim == "the mate" else first, signal.SIGKILL)
        wait_for(lambda gone=(first, mate): not any(map(lives, gone)), seconds=60, what="their end")  # type: ignore[misc]
        wait_for(lambda last=attempt: laptop.job(job_id).attempt > last, seconds=60, what="a new attempt")  # type: ignore[misc]
    job = laptop.wait(job_id)
    assert (job.status, job.attempt) == ("succeeded", 4), (job.error, laptop.tail())
    assert "process 1 of the job ended early: the process was killed by SIGKILL" in laptop.log.read_text()
    undisturbed = laptop.submit("pretrain", PAIR)
    assert laptop.wait(undisturbed).attempt == 1
    assert weights(laptop, job_id) == weights(laptop, undisturbed)


def test_a_stopped_worker_ends_both_processes_and_hands_the_job_back(laptop: Deployment) -> None:
    job_id = laptop.submit("pretrain", {**ENDLESS, "devices": 2})
    worker = laptop.start_worker()
    wait_for_checkpoint(laptop, job_id)
    first = child_of(worker)
    (mate,) = mates_of(first)
    worker.terminate()
    assert worker.wait(60) == 0
    assert laptop.job(job_id).status == "queued" and not lives(first) and not lives(mate)
    assert "Traceback" not in laptop.tail()
