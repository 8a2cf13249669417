"""Repairs what got lost: a message, a worker.

Messages may vanish and workers may be killed; the database knows which jobs wait. An idle worker asks it for the oldest
job of its queues that could be claimed and publishes one message, so that duplicates never pile up. If nobody hears
that, it runs the job by itself: see docs/decisions/0017. Jobs that are beyond help are ended by every worker, and by
`clead reaper`, which needs none.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app import logs
from app.queue import publish
from app.records.session import Database
from app.services import claims, workers
from app.settings import Settings, settings_or_exit
from migrations import NewerSchemaError, refuse_newer
from worker.context import Worker
from worker.tasks import run_job

log = logging.getLogger("worker.reaper")  # also when it is the main module


class Reaper:
    """A thread that looks every ``reaper_seconds``, the first time at once."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)
        self._announced: str | None = None
        self._job: threading.Thread | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread, wait for the job that it started, and sign the worker off."""
        self._end.set()
        self._thread.join()
        if self._job is not None:
            self._job.join()
        try:
            with self._worker.database.writing() as session:
                workers.leave(session, self._worker.id)
        except SQLAlchemyError as error:
            log.warning("the worker could not sign off: %s", error)

    def busy(self) -> bool:
        """Whether a job runs that this reaper started."""
        return self._job is not None and self._job.is_alive()

    def _run(self) -> None:
        keep_looking(self.look, settings=self._worker.settings, end=self._end)

    def look(self) -> str | None:
        """One round: sign of life, jobs that are beyond help, and one message if this worker is idle.

        Returns the id of the job that a message was sent for. One that waits although it was announced a round ago is
        run from here: the broker is away, or Celery, connected again after a fault, does not listen.
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
        worker.metrics.given_up.inc(end_lost_jobs(worker.database, worker.settings))
        if not worker.idle.is_set() or worker.stopping.is_set():
            return None
        with worker.database.session() as session:
            waiting = claims.claimable(session, queues=worker.queues, limit=1)
        for job in waiting:
            if job.id == self._announced:
                self._run_here(job.id)
                return None
            self._announced = job.id
            if job.queue is not None and publish(worker.celery, job.id, queue=job.queue):
                return job.id
        return None

    def _run_here(self, job_id: str) -> None:
        """In a thread of its own, which outlives the job's process: that one dies with the thread that started it."""
        log.warning("job %s waits although it was announced; run without the broker", job_id, extra={"job_id": job_id})
        self._job = threading.Thread(target=self._do, args=(job_id,), name=f"job-{job_id}")
        self._job.start()

    def _do(self, job_id: str) -> None:
        try:
            run_job(self._worker, job_id)
        except Exception:  # as Celery does: the job's lease runs out, and the next attempt is another worker's
            log.exception("job %s could not be run", job_id, extra={"job_id": job_id})


def run_reaper(settings: Settings) -> None:
    """End jobs that are beyond help until SIGTERM or SIGINT, also while no worker lives. Call it from the main thread.

    It sends no messages: one helps only a worker that lives, and each of those asks for itself. Raises
    NewerSchemaError.
    """
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    database = Database(settings.database_url)
    try:
        refuse_newer(database)
    except OperationalError as error:  # it may come back
        log.warning("the database does not answer yet: %s", error.orig)
    log.info("the reaper looks every %g s", settings.reaper_seconds)
    try:
        keep_looking(lambda: end_lost_jobs(database, settings), settings=settings, end=end)
    finally:
        database.close()


def keep_looking(look: Callable[[], object], *, settings: Settings, end: threading.Event) -> None:
    """Call ``look`` every ``reaper_seconds`` until ``end`` is set; a database that is away will come back."""
    while not end.is_set():
        try:
            look()
        except SQLAlchemyError as error:
            log.warning("the reaper could not reach the database: %s", error)
        except Exception:  # whatever it was, a worker without a reaper would be taken for dead
            log.exception("the reaper failed; it looks again")
        else:
            if settings.alive_file is not None:
                settings.alive_file.touch()
        end.wait(settings.reaper_seconds)


def end_lost_jobs(database: Database, settings: Settings) -> int:
    """End the jobs whose worker died and which nobody may take up again; returns how many."""
    with database.writing() as session:
        late = claims.shorten_leases(session, lease_seconds=settings.lease_seconds)
        ended = claims.fail_exhausted(session, max_attempts=settings.max_attempts)
    if late:
        log.warning("the database's clock was set back: %d leases shortened", late)
    for job in ended:
        log.warning("job %s is %s: its worker died", job.id, job.status, extra={"job_id": job.id})
    return len(ended)


def main() -> int:
    """Settings come from the environment."""
    settings = settings_or_exit()
    logs.configure(settings.log_format, level=settings.log_level, secrets=settings.secrets)
    try:
        run_reaper(settings)
    except NewerSchemaError as error:
        log.critical("not starting: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
