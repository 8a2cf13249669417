"""A storage that goes away while a job waits for its inputs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from app.services import jobs, models
from app.settings import Settings
from migrations import upgrade
from models.checkpoints import save_model
from models.networks import build_model
from models.specs import BackboneSpec, ModelCard
from tests.conftest import new_bucket
from tests.servers import free_port, s3_on, wait_for
from worker.context import Worker
from worker.tasks import run_job

CARD = ModelCard(
    kind="encoder", backbone=BackboneSpec(width=4, blocks=(1,)), image_shape=(1, 8, 8), mean=(0.3,), std=(0.4,)
)


def test_a_worker_that_stops_while_the_storage_is_away_hands_the_job_back_unharmed(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    save_model(tmp_path / "weights", build_model(CARD))
    with s3_on(port):
        settings = Settings(home=tmp_path, storage_url=new_bucket(), max_attempts=1, stop_seconds=1)
        upgrade(settings)
        worker = Worker.open(settings, queues=("train",))
        artifact = worker.storage.put_file(tmp_path / "weights")
    with worker.database.writing() as session:
        card = CARD.model_dump(mode="json")
        models.register_version(session, name="net", sha256=artifact.sha256, size=artifact.size, card=card)
        spec = {"model": "net@1", "dataset": {"name": "digits"}}
        job_id = jobs.submit(session, kind="probe", spec=spec).id
    running = threading.Thread(target=run_job, args=(worker, job_id))
    running.start()
    wait_for(lambda: worker.job_id == job_id, what="the job's beginning")
    worker.stop()
    running.join()
    with worker.database.session() as session:
        job = jobs.get(session, job_id)
        assert (job.status, job.attempt, job.failures, job.owner) == ("queued", 1, 0, None)
    worker.database.close()
