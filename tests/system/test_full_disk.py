"""Disks that fill up under a training and under an upload. They are mounted for the test, as root."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from app.records.session import Database
from app.services import jobs
from app.settings import Settings
from app.storage import Storage
from migrations import upgrade
from models.checkpoints import save_model
from tests.app.api.conftest import assert_problem, make_model
from tests.deployment import Deployment
from tests.disks import fill, full_disk
from tests.servers import wait_for
from tests.system.trainings import MEDIUM, PRETRAIN, checkpoints, start_api, unbroken, wait_for_checkpoint, weights

MIB = 1024 * 1024
WIDER = {"name": "resnet18", "width": 16, "blocks": [1]}
"""Its weights fill more than a page."""


@pytest.mark.parametrize("place", ["work", "storage"])
def test_a_full_disk_while_checkpoints_are_written(laptop: Deployment, place: str) -> None:
    """The one before stays valid and serves after a kill; the log says why; with room again all goes on."""
    with full_disk(laptop.settings.home / place, size=8 * MIB) as disk:
        job_id = laptop.submit("pretrain", MEDIUM)
        worker = laptop.start_worker()
        wait_for_checkpoint(laptop, job_id)
        ballast = fill(disk)
        wait_for(lambda: "No space left on device" in laptop.log.read_text(), seconds=150, what="the full disk")
        kept = checkpoints(laptop, job_id)
        laptop.wait_for_step(job_id, kept[-1].step + 20)
        assert laptop.job(job_id).attempt == 1, "a checkpoint that could not be written does not end a training"
        whole = laptop.storage.scoped(f"checkpoints/{job_id}")
        for checkpoint in checkpoints(laptop, job_id):
            whole.fetch(checkpoint.sha256, laptop.settings.home / "whole")
        laptop.kill(worker)

        ballast.unlink()
        laptop.start_worker()
        wait_for(lambda: laptop.job(job_id).attempt == 2, seconds=150, what="the second attempt")
        job = laptop.wait(job_id)
        assert (job.status, job.attempt) == ("succeeded", 2)
        threads = laptop.settings.torch_threads
        assert weights(laptop, job_id) == unbroken(MEDIUM, threads=threads)
        laptop.close()


@pytest.mark.parametrize("place", ["work", "storage"])
def test_a_disk_that_stays_full_fails_the_job_with_that_cause(laptop: Deployment, place: str) -> None:
    """After its attempts; with room again a resume brings it home."""
    with full_disk(laptop.settings.home / place, size=2 * MIB) as disk:
        ballast = fill(disk, leave=4096)  # for folders and locks, not for weights
        job_id = laptop.submit("pretrain", {**PRETRAIN, "backbone": WIDER, "epochs": 1})
        laptop.start_worker(checkpoint_seconds=3600)
        job = laptop.wait(job_id)
        assert (job.status, job.attempt) == ("failed", laptop.settings.max_attempts)
        assert job.error is not None and "No space left on device" in job.error["detail"]
        assert str(laptop.settings.home) not in job.error["detail"]

        ballast.unlink()
        with laptop.database.writing() as session:
            jobs.resume(session, job_id)
        assert laptop.wait(job_id).status == "succeeded"
        laptop.close()


def test_an_upload_to_a_full_disk_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """Wherever it is full: where uploads arrive (TMPDIR), where they are checked, or in the storage."""
    settings = Settings(home=tmp_path / "home")
    upgrade(settings)
    deployment = Deployment(settings, Database(settings.database_url), Storage(settings.storage_url), tmp_path / "log")
    path = tmp_path / "weights.safetensors"
    save_model(path, make_model())
    form = path.read_bytes() + b"\0" * 3 * MIB  # beyond what is kept in memory
    with (
        full_disk(tmp_path / "arrivals", size=2 * MIB) as arrivals,
        full_disk(settings.work_dir, size=MIB) as checked,
        full_disk(settings.home / "storage", size=MIB) as storage,
    ):
        try:
            _, url = start_api(deployment, variables={"TMPDIR": str(arrivals)})
            for disk in (checked, storage):
                ballast = fill(disk)
                before = everything_below(disk)
                assert_full(post(url, path.read_bytes()))
                assert everything_below(disk) == before
                ballast.unlink()

            assert_full(post(url, form))
            assert everything_below(arrivals) == []
            assert post(url, path.read_bytes()).status_code == 201, deployment.tail()
        finally:
            deployment.close()


def post(url: str, content: bytes) -> httpx.Response:
    return httpx.post(f"{url}/models/mine/versions", files={"weights": ("w.safetensors", content)}, timeout=60)


def assert_full(response: httpx.Response) -> None:
    assert_problem(response, 507, says="disk is full")


def everything_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
