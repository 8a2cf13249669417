"""Repairs what got lost: a message, a worker.

Messages may vanish and workers may be killed; the database knows which jobs wait. An idle worker asks it for the oldest
job of its queues that could be claimed and publishes one message, so that duplicates never pile up.
"""

from __future__ import annotations

import logging
import os
import socket
import threading

from sqlalchemy.exc import SQLAlchemyError

from app.queue import publish
from app.services import claims, workers
from worker.context import Worker

log = logging.getLogger(__name__)


class Reaper:
    """A thread that looks every ``reaper_seconds``, the first time at once."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and sign the worker off."""
        self._end.set()
        self._thread.join()
        try:
            with self._worker.database.writing() as session:
                workers.leave(session, self._worker.id)
        except SQLAlchemyError as error:
            log.warning("the worker could not sign off: %s", error)

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                self.look()
            except SQLAlchemyError as error:
                log.warning("the reaper could not reach the database: %s", error)
            self._end.wait(self._worker.settings.reaper_seconds)

    def look(self) -> str | None:
        """One round: sign of life, jobs that are beyond help, and one message if this worker is idle.

        Returns the id of the job that a message was sent for.
        """
        worker = self._worker
        with worker.database.writing() as session:
            workers.beat(
                session,
                worker.id,
                host=socket.gethostname(),
                pid=os.getpid(),
                queues=worker.queues,
                job_id=worker.job_id,
            )
        with worker.database.writing() as session:
            for job in claims.fail_exhausted(session, max_attempts=worker.settings.max_attempts):
                log.warning("job %s is %s: its worker died", job.id, job.status, extra={"job_id": job.id})
                worker.metrics.given_up.inc()
        if not worker.idle.is_set() or worker.stopping.is_set():
            return None
        with worker.database.session() as session:
            waiting = claims.claimable(session, queues=worker.queues, limit=1)
        for job in waiting:
            if job.queue is not None and publish(worker.celery, job.id, queue=job.queue):
                return job.id
        return None
