"""Killed in the middle of AutoAttack, or of corruptions, an evaluation goes on from a checkpoint to the same result."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from models import data
from models.corruption_evaluation import evaluate_corruptions
from models.corruption_spec import CorruptionParams
from models.evaluation import evaluate
from models.evaluation_spec import EvaluationParams
from models.networks import ImageModel
from models.progress import Silent
from tests.deployment import Deployment
from tests.servers import wait_for
from tests.system.classifiers import register, trained_classifier, verdicts
from tests.system.trainings import checkpoints

DATA: dict[str, Any] = {"name": "digits", "subset": 150}
# In this small ball hardly an image breaks, so that each part takes its time.
AUTOATTACK = {"name": "autoattack", "eps": 0.01, "steps": 15, "queries": 300}
EVALUATE: dict[str, Any] = {
    "model": "tiny@1",
    "dataset": DATA,
    "attacks": [{"name": "pgd", "eps": 0.1, "steps": 10}, AUTOATTACK],
    "examples": 4,
    "precision": "float32",
}
CORRUPT: dict[str, Any] = {"model": "tiny@1", "dataset": {"name": "digits", "subset": None, "split": "train"}}
BODIES = {"evaluate": EVALUATE, "sharded": {**EVALUATE, "shard_size": 100}, "corruptions": CORRUPT}
CLEAN, PGD, FIRST_PART = 1, 1, 1


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ImageModel:
    return trained_classifier(tmp_path_factory.mktemp("data"))


def in_one_go(kind: str, tiny: ImageModel, folder: Path) -> dict[str, Any]:
    """The result of a run in this process, which nothing happens to."""
    digits = data.load("digits", root=folder)
    torch.set_num_threads(1)
    told: dict[str, Any] = {"reporter": Silent(), "device": "cpu", "dataset_info": {"sha256": digits.sha256}}
    if kind == "corruptions":
        return evaluate_corruptions(tiny, digits.train, CorruptionParams.model_validate(CORRUPT), **told)
    images = data.subset(digits.test, DATA["subset"], seed=0)
    return evaluate(tiny, images, EvaluationParams.model_validate(EVALUATE), **told).result


@pytest.mark.parametrize("kind", BODIES)
def test_a_kill_costs_no_attack_that_was_through(
    laptop: Deployment, tiny: ImageModel, tmp_path: Path, kind: str
) -> None:
    register(laptop, tiny)
    job_id = laptop.submit("corruptions" if kind == "corruptions" else "evaluate", BODIES[kind])
    steps = 10 if kind == "corruptions" else CLEAN + PGD + FIRST_PART
    worker = laptop.start_worker()
    at_work: list[str] = []

    def far_enough() -> bool:
        at_work[:] = [job for job in jobs_of(laptop, job_id) if reached(laptop, job) >= steps]
        return bool(at_work)

    wait_for(far_enough, seconds=150, what="a checkpoint after the first part")
    laptop.kill(worker)
    (killed,) = at_work
    kept = reached(laptop, killed)
    laptop.start_worker()
    job = laptop.wait(job_id)
    assert job.status == "succeeded", laptop.tail()
    assert laptop.job(killed).attempt == 2
    assert re.search(rf"goes on from resume-from-{kept}\.pt", laptop.log.read_text())
    expected = in_one_go(kind, tiny, tmp_path)
    assert verdicts(job.result) == verdicts(expected)
    if kind == "evaluate":  # shards look after themselves, each at its own examples
        assert job.result is not None and job.result["cost"]["forward_images"] == expected["cost"]["forward_images"]
    wait_for(lambda: not checkpoints(laptop, killed), seconds=30, what="the end of the checkpoints")


def jobs_of(deployment: Deployment, job_id: str) -> list[str]:
    """The jobs that do its work: its shards, or itself."""
    return deployment.view(job_id).get("children") or [job_id]


def reached(deployment: Deployment, job_id: str) -> int:
    return max((checkpoint.step for checkpoint in checkpoints(deployment, job_id)), default=0)
