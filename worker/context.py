"""What one worker process holds open, and what it does now."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass, field

from celery import Celery

from app.queue import create_celery
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
    celery: Celery
    id: str
    stopping: threading.Event = field(default_factory=threading.Event)
    idle: threading.Event = field(default_factory=threading.Event)
    """Set while no job runs here."""
    job_id: str | None = None
    metrics: WorkerMetrics = field(default_factory=WorkerMetrics)

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

    def checkpoints_of(self, job_id: str) -> Storage:
        """The storage of a job's own checkpoints, which no other job shares."""
        return self.storage.scoped(references.checkpoints_of(job_id))

    def evidence_of(self, job_id: str) -> Storage:
        """The storage of what the shards of an evaluation saw; needed until they are merged."""
        return self.storage.scoped(references.evidence_of(job_id))
