"""A whole job life on PostgreSQL, Redis and S3, through the API; and a resume after a prune."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from safetensors.torch import load
from sqlalchemy import func, select

from app.records import Checkpoint
from app.records.session import Database
from app.services import artifacts, jobs, references
from app.services.prune import Pruner
from app.storage import Storage
from migrations import upgrade
from tests.conftest import make_settings, new_bucket
from tests.deployment import Deployment
from tests.system.trainings import PRETRAIN as BODY
from tests.system.trainings import start_api, wait_for_checkpoint

NOW = timedelta(seconds=-10)


@pytest.fixture
def deployment(request: pytest.FixtureRequest, s3_server: str, tmp_path: Path) -> Iterator[Deployment]:
    settings = make_settings("postgres+redis", request, tmp_path / "home", storage_url=new_bucket())
    upgrade(settings)
    made = Deployment(settings, Database(settings.database_url), Storage(settings.storage_url), tmp_path / "log")
    yield made
    made.close()


def missing(deployment: Deployment) -> list[references.Reference]:
    with deployment.database.session() as session:
        named = list(references.every(session))
    assert named
    return [found for found in named if not artifacts.place(deployment.storage, found.folder).exists(found.sha256)]


def test_pretrain_probe_evaluate_classify(deployment: Deployment) -> None:
    _, url = start_api(deployment)
    deployment.start_worker()
    with httpx.Client(base_url=url, timeout=60) as api:

        def finish(path: str, body: dict[str, Any]) -> dict[str, Any]:
            job_id = api.post(path, json=body).raise_for_status().json()["id"]
            job = deployment.wait(job_id)
            assert job.status == "succeeded", (job.error, deployment.tail())
            found: dict[str, Any] = api.get(f"/jobs/{job_id}").json()
            return found

        finish("/jobs/pretrain", {**BODY, "epochs": 2})
        probe = {"model": "tiny", "dataset": {"name": "digits"}, "epochs": 1, "register_as": "probed"}
        finish("/jobs/probe", probe)
        attacks = [{"name": "pgd", "eps": 0.2, "steps": 5}]
        body = {"model": "probed", "dataset": {"name": "digits", "subset": 120}, "attacks": attacks, "examples": 3}
        alone = finish("/evaluate", body)
        sharded = finish("/evaluate", {**body, "shard_size": 60})
        assert deployment.storage.scopes("checkpoints") == deployment.storage.scopes("evidence") == []
        assert Pruner(deployment.database, deployment.storage).unreferenced(older_than=NOW).files == 0
        assert missing(deployment) == []

        for job in (alone, sharded):
            examples = api.get(job["result"]["examples"]).json()
            pixels = load(api.get(examples["file"]).raise_for_status().content)
            assert len(examples["items"]) == 3 and pixels["adversarial"].shape == (3, 1, 8, 8)
        shown = examples["items"][0]
        picture = api.get(shown["adversarial"]).raise_for_status().content
        answer = api.post("/classify?model=probed", files={"images": ("x.png", picture)}).raise_for_status().json()
        assert answer["predictions"][0]["label"] in {str(digit) for digit in range(10)}
        weights = api.get("/models/probed/versions/1/weights").raise_for_status()
        assert "head.weight" in load(weights.content)

        pruned = Pruner(deployment.database, deployment.storage).examples(older_than=NOW)
        assert pruned.jobs == 2 and deployment.storage.scopes("examples") == []
        gone = api.get(sharded["result"]["examples"]).json()
        assert (gone["items"], gone["file"]) == ([], None) and gone["pruned_at"]
        assert "were pruned at" in api.get(shown["clean"]).json()["detail"]
        assert missing(deployment) == []


def test_a_job_whose_checkpoints_were_pruned_begins_again_and_succeeds(deployment: Deployment) -> None:
    body = {**BODY, "epochs": 6}
    job_id = deployment.submit("pretrain", body)
    deployment.start_worker()
    wait_for_checkpoint(deployment, job_id)
    with deployment.database.writing() as session:
        jobs.cancel(session, job_id)
    assert deployment.wait(job_id).status == "cancelled"
    pruned = Pruner(deployment.database, deployment.storage).checkpoints(older_than=NOW)
    assert pruned.jobs == 1 and pruned.files in (1, 2) and deployment.storage.scopes("checkpoints") == []
    with deployment.database.session() as session:
        assert session.scalar(select(func.count()).select_from(Checkpoint)) == 0
    with deployment.database.writing() as session:
        jobs.resume(session, job_id)
    assert deployment.wait(job_id).status == "succeeded", deployment.tail()
    assert missing(deployment) == []
