"""The whole service as real processes: PostgreSQL, Redis, the API and two workers, each started again when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from app.records.session import Database
from app.settings import Settings
from app.storage import Storage
from migrations import upgrade
from tests.conftest import new_database
from tests.deployment import Deployment
from tests.killable import PostgresServer, RedisServer
from tests.servers import free_port
from tests.system.trainings import api_command, lives, start_api

WORKERS = 2


class Installation:
    """``max_attempts`` is out of the kills' reach: they come more often than any machine dies.

    PostgreSQL syncs its files, and Redis writes each command to its append-only file, as where data matter.
    """

    def __init__(self, folder: Path, postgres_folder: Path) -> None:
        redis_folder = folder / "redis"
        redis_folder.mkdir()
        self.postgres = PostgresServer(postgres_folder, durable=True)
        self.redis = RedisServer(free_port(), redis_folder, keeps=True)
        self.workers: list[subprocess.Popen[bytes]] = []
        self.fallen: list[str] = []
        """Processes that ended although nobody had killed them."""
        self._redis_folder = redis_folder
        self._folder = folder
        self._port = free_port()

    def __enter__(self) -> Self:
        self.postgres.start()
        self.redis.start()
        settings = Settings(
            home=self._folder / "home",
            device="cpu",
            threads=1,
            database_url=new_database(self.postgres.url),
            broker_url=self.redis.url,
            lease_seconds=15.0,
            heartbeat_seconds=0.5,
            reaper_seconds=1.0,
            checkpoint_seconds=0.5,
            stop_seconds=20.0,
            max_attempts=1000,
        )
        upgrade(settings)
        self.settings = settings
        self.deployment = Deployment(
            settings, Database(settings.database_url), Storage(settings.storage_url), self._folder / "log"
        )
        self.api, self.url = start_api(self.deployment, port=self._port)
        self.workers = [self.deployment.start_worker() for _ in range(WORKERS)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.deployment.close()
        self.redis.stop()
        self.postgres.stop()

    def kill_worker(self, worker: subprocess.Popen[bytes]) -> None:
        """SIGKILL, and another in its place."""
        worker.kill()
        worker.wait()
        self.workers[self.workers.index(worker)] = self.deployment.start_worker()

    def kill_api(self) -> None:
        """SIGKILL, and another in its place; it answers when it is ready, and clients wait for it."""
        self.api.kill()
        self.api.wait()
        self.api = self.deployment.start(api_command(self._port))

    def wipe_redis(self) -> None:
        """What the killed Redis had kept is lost."""
        for path in sorted(self._redis_folder.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()

    def look_after(self) -> None:
        """Start again what has ended by itself, and note it: nothing should."""
        for worker in [*self.workers]:
            if worker.poll() is not None:
                self.fallen.append(f"a worker ended with status {worker.returncode}")
                self.workers[self.workers.index(worker)] = self.deployment.start_worker()
        if self.api.poll() is not None:
            self.fallen.append(f"the API ended with status {self.api.returncode}")
            self.api = self.deployment.start(api_command(self._port))

    def stop(self) -> list[str]:
        """Stop API and workers in order; what was wrong with that."""
        processes = {"the API": self.api, **{f"worker {number}": worker for number, worker in enumerate(self.workers)}}
        for process in processes.values():
            process.terminate()
        wrong = []
        for name, process in processes.items():
            try:
                status = process.wait(60)
            except subprocess.TimeoutExpired:
                wrong.append(f"{name} did not stop")
                continue
            if status not in (0, -signal.SIGTERM):  # uvicorn raises the signal again after its shutdown
                wrong.append(f"{name} stopped with status {status}")
        return wrong + [f"process {pid} is left" for pid in self.processes()]

    def processes(self) -> list[int]:
        """Every living process, but this one, that was started for this installation's home."""
        mark = f"CLEAD_HOME={self.settings.home}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            pid = int(path.parent.name)
            try:
                marked = mark in path.read_bytes().split(b"\0")
            except OSError:  # it has ended, or is another user's
                continue
            if marked and pid != os.getpid() and lives(pid):
                found.append(pid)
        return found
