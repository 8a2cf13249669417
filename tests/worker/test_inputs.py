"""Inputs that are not there when an attempt begins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.records import Job
from app.services import jobs, models
from app.settings import Settings
from migrations import upgrade
from worker.context import Worker
from worker.tasks import run_job


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    settings = Settings(home=tmp_path, max_attempts=3)
    upgrade(settings)
    opened = Worker.open(settings, queues=("train",))
    yield opened
    opened.database.close()


def after_an_attempt(worker: Worker) -> Job:
    """A probe of ``net@1`` that was run once."""
    spec = {"model": "net@1", "dataset": {"name": "digits"}}
    with worker.database.writing() as session:
        job_id = jobs.submit(session, kind="probe", spec=spec).id
    run_job(worker, job_id)
    with worker.database.session() as session:
        return jobs.get(session, job_id)


def test_a_job_whose_model_was_deleted_fails_with_its_first_attempt(worker: Worker) -> None:
    job = after_an_attempt(worker)
    assert (job.status, job.attempt, job.failures) == ("failed", 1, 0)
    assert job.error is not None and job.error["title"] == "An input was deleted"
    assert job.error["detail"] == "the model net@1, which the job needs, was deleted"


def test_weights_that_the_storage_lost_are_sought_again(worker: Worker) -> None:
    with worker.database.writing() as session:
        models.register_version(session, name="net", sha256="0" * 64, size=1, card={})
    job = after_an_attempt(worker)
    assert (job.status, job.attempt, job.failures) == ("queued", 1, 1)
    assert job.failure is not None and "holds no artifact" in job.failure
