"""A device that is not there costs no job: a worker does not start with it, and hands its job back if it vanishes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.services import jobs, specs
from app.settings import Settings
from migrations import upgrade
from tests.system.trainings import QUICK
from worker.context import Worker
from worker.tasks import run_job


@pytest.mark.parametrize("device", ["cuda:77", "gpu"])
def test_a_worker_whose_device_is_not_there_ends_before_it_takes_a_job(tmp_path: Path, device: str) -> None:
    upgrade(Settings(home=tmp_path))
    variables = {"CLEAD_HOME": str(tmp_path), "CLEAD_DEVICE": device}
    command = [sys.executable, "-m", "worker.main"]
    ended = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    line = ended.stderr.splitlines()[-1]
    assert f"not starting: torch finds no device '{device}'" in line and "set CLEAD_DEVICE to auto" in line
    assert "Traceback" not in ended.stderr


def test_a_job_whose_device_has_vanished_is_handed_back(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, device="cuda:77")
    upgrade(settings)
    worker = Worker.open(settings, queues=("train",))
    with worker.database.writing() as session:
        spec, name, _ = specs.validate(session, kind="pretrain", body=QUICK)
        job_id = jobs.submit(session, kind="pretrain", spec=spec, register_as=name).id
    run_job(worker, job_id)
    with worker.database.session() as session:
        job = jobs.get(session, job_id)
    assert (job.status, job.failures) == ("queued", 1)
    assert job.failure == "torch finds no device 'cuda:77' on this machine"
    worker.database.close()
