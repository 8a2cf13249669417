"""A job is run although no message of it is ever heard."""

from __future__ import annotations

from pathlib import Path

from app.services import jobs
from app.settings import Settings
from migrations import upgrade
from tests.servers import free_port, wait_for
from worker.context import Worker
from worker.reaper import Reaper


def test_an_announced_job_that_nobody_takes_is_run_without_the_broker(tmp_path: Path) -> None:
    """It cannot work, so that it ends at once: what it needs is not there."""
    settings = Settings(home=tmp_path, broker_url=f"redis://127.0.0.1:{free_port()}/0", max_attempts=1)
    upgrade(settings)
    worker = Worker.open(settings, queues=("train",))
    spec = {"model": "gone@1", "dataset": {"name": "digits"}}
    with worker.database.writing() as session:
        job_id = jobs.submit(session, kind="probe", spec=spec).id
    reaper = Reaper(worker)

    def status() -> str:
        with worker.database.session() as session:
            return jobs.get(session, job_id).status

    assert reaper.look() is None and status() == "queued"
    worker.at_work.acquire()
    reaper.look()
    wait_for(lambda: not reaper.busy(), what="the end of what it started")
    assert status() == "queued", "one job at a time"
    worker.at_work.release()
    reaper.look()
    wait_for(lambda: status() == "failed", what="the run")
    worker.database.close()
