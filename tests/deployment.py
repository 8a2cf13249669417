"""One installation of the service for a test: settings, database, and real worker processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.queue import create_celery, publish
from app.records import FINAL, Job
from app.records.session import Database
from app.services import jobs, specs
from app.settings import Settings
from app.storage import Storage
from tests.servers import wait_for

ROOT = Path(__file__).parent.parent


@dataclass
class Deployment:
    """``submit`` and ``wait`` do what the API does; ``start_worker`` starts a real process."""

    settings: Settings
    database: Database
    storage: Storage
    log: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def submit(self, kind: str, body: Mapping[str, Any], *, announce: bool = True) -> str:
        """Validate, write, and (unless told not to) publish, as the API does; returns the job's id."""
        with self.database.writing() as session:
            spec, register_as, labels = specs.validate(session, kind=kind, body=body)
            job = jobs.submit(session, kind=kind, spec=spec, register_as=register_as, labels=labels)
            waiting = [(found.id, str(found.queue)) for found in jobs.runnable(session, job)]
        if announce:
            for job_id, queue in waiting:
                self.publish(job_id, queue=queue)
        return job.id

    def publish(self, job_id: str, *, queue: str = "train") -> bool:
        celery = create_celery(self.settings)
        try:
            return publish(celery, job_id, queue=queue)
        finally:
            celery.close()

    def start_worker(
        self, *arguments: str, variables: Mapping[str, str] | None = None, **settings: Any
    ) -> subprocess.Popen[bytes]:
        """A worker in a process group of its own; ``settings`` replace the deployment's."""
        return self.start([sys.executable, "-m", "worker.main", *arguments], variables=variables, **settings)

    def start(
        self, command: Sequence[str], *, variables: Mapping[str, str] | None = None, **settings: Any
    ) -> subprocess.Popen[bytes]:
        """Any process of the service with these settings, and further ``variables``, in its environment."""
        environment = self.environment(**settings) | dict(variables or {})
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, process_group=0)
        self.processes.append(process)
        return process

    def environment(self, **settings: Any) -> dict[str, str]:
        values = self.settings.model_dump(mode="json") | settings
        given = {f"CLEAD_{name.upper()}": str(value) for name, value in values.items() if value is not None}
        return os.environ | given

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL to the whole process group, as a machine that goes away."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                self.kill(process)
        self.database.close()

    def job(self, job_id: str) -> Job:
        with self.database.session() as session:
            return jobs.get(session, job_id)

    def view(self, job_id: str) -> dict[str, Any]:
        with self.database.session() as session:
            return jobs.job_view(session, jobs.get(session, job_id))

    def wait(self, job_id: str, *statuses: str, seconds: float = 240.0) -> Job:
        """Until the job's status is one of these (default: final)."""
        wanted = statuses or FINAL
        try:
            wait_for(lambda: self.job(job_id).status in wanted, seconds=seconds, what=f"status {wanted}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(self.view(job_id))}\n{self.tail()}") from None
        return self.job(job_id)

    def wait_for_step(self, job_id: str, step: int, *, seconds: float = 240.0) -> None:
        """Until the job has reported ``step`` steps of its present attempt."""

        def reached() -> bool:
            job = self.job(job_id)
            assert job.status not in FINAL, f"the job was {job.status} before step {step}: {job.error}\n{self.tail()}"
            return job.progress is not None and job.progress["unit"] == "step" and job.progress["done"] >= step

        wait_for(reached, seconds=seconds, what=f"step {step}")

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""
