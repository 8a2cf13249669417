"""A stop while a checkpoint travels to a storage that is slow: the job's process hears it, and ends, at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from app.records import Job
from app.services import claims, jobs, specs
from app.settings import Settings
from app.storage import Artifact, Storage
from migrations import upgrade
from tests.servers import wait_for
from tests.system.trainings import ENDLESS, children_of, lives
from worker.context import Worker
from worker.tasks import run_job


class SlowStorage(Storage):
    """Takes nothing before ``released``."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked = threading.Event()
        self.released = threading.Event()
        self.taken: list[str] = []

    def put_file(self, path: Path) -> Artifact:
        self.asked.set()
        assert self.released.wait(300)
        self.taken.append(path.name)
        return super().put_file(path)


class Run:
    """A training in a process of its own whose first checkpoint waits for the storage."""

    def __init__(self, home: Path, *, stop_seconds: float) -> None:
        settings = Settings(
            home=home, device="cpu", heartbeat_seconds=0.25, checkpoint_seconds=0.2, stop_seconds=stop_seconds
        )
        upgrade(settings)
        self.worker = Worker.open(settings, queues=("train",))
        self.worker.storage = self.storage = SlowStorage(settings.storage_url)
        with self.worker.database.writing() as session:
            spec, name, _ = specs.validate(session, kind="pretrain", body=ENDLESS)
            self.job_id = jobs.submit(session, kind="pretrain", spec=spec, register_as=name).id
        others = set(children_of(os.getpid()))
        self._thread = threading.Thread(target=run_job, args=(self.worker, self.job_id), daemon=True)
        self._thread.start()
        assert self.storage.asked.wait(150)
        (self.child,) = set(children_of(os.getpid())) - others

    def cancel(self) -> None:
        with self.worker.database.writing() as session:
            jobs.cancel(session, self.job_id)

    def wait_for_the_child(self) -> None:
        """Until it has ended, although the checkpoint is still on its way."""
        wait_for(lambda: not lives(self.child), seconds=150, what="the end of the job's process")
        assert self.job().status == "running" and not self.storage.released.is_set()

    def job(self) -> Job:
        with self.worker.database.session() as session:
            return jobs.get(session, self.job_id)

    def checkpoints(self) -> int:
        with self.worker.database.session() as session:
            return len(claims.checkpoints(session, self.job_id))

    def finish(self) -> None:
        self.storage.released.set()
        self._thread.join()
        assert not [thread.name for thread in threading.enumerate() if thread.name.endswith(self.job_id)]

    def close(self) -> None:
        self.worker.stop()
        self.finish()
        self.worker.database.close()


@pytest.fixture
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    started = Run(tmp_path, stop_seconds=getattr(request, "param", 120.0))
    yield started
    started.close()


def test_a_cancel_is_heard(run: Run) -> None:
    run.cancel()
    run.wait_for_the_child()
    run.finish()
    assert run.job().status == "cancelled"
    assert run.checkpoints() == 2, "the one on its way, and what the process left when it stopped"


def test_checkpoints_that_were_overtaken_on_their_way_are_left_out(run: Run, tmp_path: Path) -> None:
    def waiting() -> list[str]:
        return sorted(path.name for path in tmp_path.rglob("resume-*.pt"))

    wait_for(lambda: len(waiting()) > 4, seconds=150, what="checkpoints behind the one on its way")
    first, *overtaken, _ = waiting()
    run.storage.released.set()
    wait_for(lambda: len(run.storage.taken) > 2, seconds=150, what="newer ones in the storage")
    assert run.storage.taken[0] == first and not set(overtaken) & set(run.storage.taken)
    assert not set(overtaken) & set(waiting())


def test_the_workers_stop_is_heard(run: Run) -> None:
    run.worker.stop()
    run.wait_for_the_child()
    run.finish()
    job = run.job()
    assert (job.status, job.failures, run.checkpoints()) == ("queued", 0, 2)


@pytest.mark.parametrize("run", [1.0], indirect=True)
def test_a_process_that_does_not_stop_is_killed_in_time(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    os.kill(run.child, signal.SIGSTOP)
    run.cancel()
    run.wait_for_the_child()
    run.finish()
    assert (run.job().status, run.checkpoints()) == ("cancelled", 1)
    assert "did not stop in time" in caplog.text


def test_a_process_whose_job_another_worker_has_is_killed(run: Run) -> None:
    with run.worker.database.writing() as session:
        session.execute(update(Job).where(Job.id == run.job_id).values(owner="other"))
    run.wait_for_the_child()
    run.finish()
    assert (run.job().owner, run.checkpoints()) == ("other", 0)
