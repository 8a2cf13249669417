"""A large evaluation on real workers: shared, one killed, evidence damaged; the verdicts are those of one run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from app.records import FINAL
from app.services import jobs, parents
from models import data
from models.evaluation import evaluate
from models.evaluation_spec import EvaluationParams
from models.networks import ImageModel
from models.progress import Silent
from tests.deployment import Deployment
from tests.servers import wait_for
from tests.system.classifiers import register, trained_classifier, verdicts

BODY: dict[str, Any] = {
    "model": "tiny@1",
    "dataset": {"name": "digits", "subset": 150},
    # The second takes a while, because hardly an image breaks; the first breaks about half of them.
    "attacks": [{"name": "pgd", "eps": 0.1, "steps": 10}, {"name": "cw-linf", "eps": 0.01, "steps": 400}],
    "examples": 4,
    "precision": "float32",
}
SHARDS = ["shard:0", "shard:1", "shard:2"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ImageModel:
    return trained_classifier(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def unsharded(tiny: ImageModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of one run over all images, in this process."""
    params = EvaluationParams.model_validate(BODY)
    digits = data.load("digits", root=tmp_path_factory.mktemp("data"))
    images = data.subset(digits.test, params.dataset.subset, seed=params.dataset.seed)
    torch.set_num_threads(1)
    info = {"sha256": digits.sha256}
    return evaluate(tiny, images, params, reporter=Silent(), device="cpu", dataset_info=info).result


class Watch:
    """Polls an evaluation: who ran which shard, and which progress a client saw."""

    def __init__(self, deployment: Deployment, job_id: str) -> None:
        self._deployment = deployment
        self.job_id = job_id
        self.owners: dict[str, set[str]] = {}
        self.seen: list[dict[str, Any]] = []
        self.etas_before_the_first_end: list[float] = []

    def look(self) -> dict[str, Any]:
        """The steps of the evaluation by key, after one look at everything."""
        with self._deployment.database.session() as session:
            job = jobs.get(session, self.job_id)
            below = {str(child.step_key): child for child in parents.children(session, job)}
            view = jobs.job_view(session, job)
        for key, child in below.items():
            if child.status == "running":
                self.owners.setdefault(key, set()).add(str(child.owner))
        self.seen.append(view["progress"])
        if view["progress"]["eta_seconds"] and all(child.status != "succeeded" for child in below.values()):
            self.etas_before_the_first_end.append(view["progress"]["eta_seconds"])
        return {**below, "": view}

    def until(self, reached: Any, *, seconds: float = 120) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while not reached(steps := self.look()):
            assert time.monotonic() < deadline, (steps[""], self._deployment.tail())
            time.sleep(0.05)
        return steps


def attacking(steps: dict[str, Any]) -> str | None:
    """A shard that has begun its attacks and is far from their end."""
    for key in SHARDS:
        shard = steps[key]
        if shard.status == "running" and shard.progress and 0 < shard.progress["done"] < shard.progress["total"] / 2:
            return key
    return None


def ended(steps: dict[str, Any]) -> list[str]:
    return [key for key in SHARDS if steps[key].status == "succeeded"]


def test_two_workers_share_the_shards_and_a_kill_and_damage_cost_one_shard_each(
    deployment: Deployment, tiny: ImageModel, unsharded: dict[str, Any]
) -> None:
    register(deployment, tiny)
    job_id = deployment.submit("evaluate", {**BODY, "shard_size": 50})
    watch = Watch(deployment, job_id)
    workers = [deployment.start_worker(), deployment.start_worker()]

    steps = watch.until(lambda steps: bool(ended(steps)) and attacking(steps) is not None)
    killed = attacking(steps)
    assert killed is not None
    deployment.kill(next(worker for worker in workers if f"-{worker.pid}-" in str(steps[killed].owner)))
    evidence = steps[ended(steps)[0]].result["evidence"]
    damage(evidence_of(deployment, job_id) / evidence[:2] / evidence)

    steps = watch.until(lambda steps: steps[""]["status"] in FINAL)
    assert steps[""]["status"] == "succeeded", (steps[""], deployment.tail())
    assert verdicts(steps[""]["result"]) == verdicts(unsharded)
    assert 0 < unsharded["attacks"][0]["robust_accuracy"] < unsharded["clean_accuracy"]
    attempts = {key: steps[key].attempt for key in [*SHARDS, "merge"]}
    assert attempts == {**dict.fromkeys([*SHARDS, "merge"], 1), killed: 2}
    assert len(watch.owners[killed]) == 2
    assert len(set().union(*(watch.owners[key] for key in SHARDS))) == 2
    wait_for(lambda: not evidence_of(deployment, job_id).exists(), what="the end of the evidence")
    assert watch.etas_before_the_first_end
    assert len({progress["total"] for progress in watch.seen}) == 1


def evidence_of(deployment: Deployment, job_id: str) -> Path:
    return deployment.settings.home / "storage" / "evidence" / job_id


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
