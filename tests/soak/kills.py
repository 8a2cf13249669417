"""What a soak kills, and what the victim was doing at that moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis
from sqlalchemy import select, text

from app.records import Job
from tests.servers import wait_for
from tests.soak.installation import Installation
from tests.soak.workload import Client
from tests.system.trainings import children_of

LONGEST_AWAY = 1.5
"""Seconds that a server stays away at most."""
AT_WORK = 0.5
"""Share of the kills of children and workers that wait for a job past its start: the jobs of a soak are short, and a
random moment mostly finds a process that imports torch."""
IDLE = ("idle", "between two jobs", "starting", "decode")
PATIENCE = 30.0
"""Seconds that such a kill waits at most."""


Worker = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Kill:
    """``state``: what the victim did. ``job``: whose attempt ``attempt`` it ended, if it ran one."""

    victim: str
    state: str
    job: str | None = None
    attempt: int = 0


class Killer:
    """Kills what it is told to, and sees to it that it comes back. Which worker, and how long: ``dice`` decide."""

    def __init__(self, service: Installation, client: Client, dice: random.Random) -> None:
        self._service = service
        self._client = client
        self._dice = dice

    @property
    def victims(self) -> dict[str, Callable[[], Kill]]:
        return {
            "child": self._child,
            "worker": self._worker,
            "API": self._api,
            "Redis, data kept": lambda: self._redis("Redis, data kept", lost=False),
            "Redis, data lost": lambda: self._redis("Redis, data lost", lost=True),
            "PostgreSQL": self._postgres,
        }

    def _child(self) -> Kill:
        wait_for(lambda: any(children_of(worker.pid) for worker in self._service.workers), seconds=60, what="a child")
        worker = self._chosen([worker for worker in self._service.workers if children_of(worker.pid)])
        job, state = self._at_hand(worker)
        for child in children_of(worker.pid):
            os.kill(child, signal.SIGKILL)
        return self._kill("child", state, job)

    def _worker(self) -> Kill:
        worker = self._chosen(self._service.workers)
        job, state = self._at_hand(worker)
        self._service.kill_worker(worker)
        return self._kill("worker", state, job)

    def _api(self) -> Kill:
        state = f"{self._client.waiting} requests open"
        self._service.kill_api()
        return Kill("API", state)

    def _redis(self, victim: str, *, lost: bool) -> Kill:
        with redis.Redis.from_url(self._service.redis.url) as asked:
            queued = sum(int(asked.llen(queue)) for queue in ("train", "evaluate"))
            taken = int(asked.hlen("unacked"))
        self._service.redis.kill()
        if lost:
            self._service.wipe_redis()
        time.sleep(self._dice.uniform(0, LONGEST_AWAY))
        self._service.redis.start()
        return Kill(victim, f"{queued} messages waiting, {taken} taken")

    def _postgres(self) -> Kill:
        busy = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle'")
        with self._service.deployment.database.session() as session:
            sessions = session.execute(busy).scalar_one() - 1
            running = len(session.execute(select(Job.id).where(Job.status == "running")).all())
        self._service.postgres.kill()
        time.sleep(self._dice.uniform(0, LONGEST_AWAY))
        self._service.postgres.start()
        return Kill("PostgreSQL", f"{sessions} sessions busy, {running} jobs running")

    def _chosen(self, workers: Sequence[Worker]) -> Worker:
        """Any of them; for :data:`AT_WORK` of the kills the first that is found training or attacking."""
        chosen = self._dice.choice(workers)
        deadline = time.monotonic() + (PATIENCE if self._dice.random() < AT_WORK else 0)
        while time.monotonic() < deadline:
            for worker in workers:
                if not self._at_hand(worker)[1].endswith(IDLE):
                    return worker
            time.sleep(0.05)
        return chosen

    def _at_hand(self, worker: Worker) -> tuple[Job | None, str]:
        """The job that a worker runs, and what it does: starts, trains, attacks."""
        mine = Job.owner.contains(f"-{worker.pid}-")
        with self._service.deployment.database.session() as session:
            job = session.scalars(select(Job).where(Job.status == "running", mine)).first()
        if job is None:
            return None, "idle" if not children_of(worker.pid) else "between two jobs"
        done = (job.progress or {}).get("done", 0) if children_of(worker.pid) else 0
        return job, f"{job.kind}: {job.progress['stage'] if job.progress and done else 'starting'}"

    @staticmethod
    def _kill(victim: str, state: str, job: Job | None) -> Kill:
        return Kill(victim, state) if job is None else Kill(victim, state, job.id, job.attempt)
