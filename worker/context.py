"""What one worker process holds open, and what it does now."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from dataclasses import dataclass, field

from app.queue import Application, create_celery
from app.records import new_id
from app.records.session import Database
from app.services import references
from app.settings import Settings
from app.storage import Storage
from worker.metrics import WorkerMetrics


@dataclass
class Worker:
    """One worker process. ``stopping`` is set once it should hand its job back and end."""

    settings: Settings
    queues: tuple[str, ...]
    database: Database
    storage: Storage
    celery: Application
    id: str
    stopping: threading.Event = field(default_factory=threading.Event)
    idle: threading.Event = field(default_factory=threading.Event)
    """Set while no job runs here."""
    at_work: threading.Lock = field(default_factory=threading.Lock)
    """Held by the thread that runs a job: one at a time, whoever found it."""
    job_id: str | None = None
    metrics: WorkerMetrics = field(default_factory=WorkerMetrics)
    stop_by: float = math.inf
    """On the monotonic clock: when a stopping worker must have ended."""

    @classmethod
    def open(cls, settings: Settings, *, queues: tuple[str, ...]) -> Worker:
        """A worker with an id that no other has had."""
        worker = cls(
            settings=settings,
            queues=queues,
            database=Database(settings.database_url),
            storage=Storage(settings.storage_url),
            celery=create_celery(settings),
            id=f"{socket.gethostname()[:100]}-{os.getpid()}-{new_id()[-12:]}",
        )
        worker.idle.set()
        return worker

    def stop(self) -> None:
        """Begin to stop: no further job, and the one that runs is handed back."""
        self.stop_by = time.monotonic() + self.settings.stop_seconds
        self.stopping.set()

    def grace_is_over(self) -> bool:
        return time.monotonic() > self.stop_by

    def checkpoints_of(self, job_id: str) -> Storage:
        """The storage of a job's own checkpoints, which no other job shares."""
        return self.storage.scoped(references.checkpoints_of(job_id))

    def evidence_of(self, job_id: str) -> Storage:
        """The storage of what the shards of an evaluation saw; needed until they are merged."""
        return self.storage.scoped(references.evidence_of(job_id))
