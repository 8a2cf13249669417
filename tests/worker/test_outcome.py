"""What becomes of a job that its worker gives back."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.services import claims, jobs, models, parents, specs
from app.settings import Settings
from migrations import upgrade
from models.specs import BackboneSpec, ModelCard
from worker import outcome
from worker.context import Worker

CARD = ModelCard(
    kind="classifier",
    backbone=BackboneSpec(width=4, blocks=(1,)),
    image_shape=(1, 8, 8),
    classes=tuple("0123456789"),
    mean=(0.3,),
    std=(0.4,),
)
BODY = {"model": "net", "dataset": {"name": "digits"}, "attacks": [{"name": "fgsm", "eps": 0.1}], "shard_size": 200}


@pytest.mark.parametrize("failure", [None, "killed by SIGSEGV"])
def test_a_shard_given_back_after_its_cancel_ends_the_evaluation(tmp_path: Path, failure: str | None) -> None:
    settings = Settings(home=tmp_path)
    upgrade(settings)
    worker = Worker.open(settings, queues=("evaluate",))
    with worker.database.writing() as session:
        models.register_version(session, name="net", sha256="0" * 64, size=1, card=CARD.model_dump(mode="json"))
        spec, _, _ = specs.validate(session, kind="evaluate", body=BODY)
        evaluation = jobs.submit(session, kind="evaluate", spec=spec)
        shard = parents.children(session, evaluation)[0].id
        claim = claims.claim(session, shard, owner=worker.id, lease_seconds=30, max_attempts=3)
    assert claim is not None
    with worker.database.writing() as session:
        assert jobs.cancel(session, evaluation.id).status == "running"
    outcome.give_back(worker, claim, failure=failure)
    with worker.database.session() as session:
        assert [jobs.get(session, job_id).status for job_id in (shard, evaluation.id)] == ["cancelled", "cancelled"]
    worker.database.close()
