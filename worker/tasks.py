"""The one Celery task: claim the job that a message names, run an attempt at it, write the outcome."""

from __future__ import annotations

import logging
import time

from app import logs
from app.queue import TASK
from app.services import claims
from app.services.claims import Claim
from worker import outcome
from worker.attempt import Attempt
from worker.context import Worker
from worker.folders import work_folder
from worker.lease import LeaseKeeper

log = logging.getLogger(__name__)


def register(worker: Worker) -> None:
    """Let ``worker``'s Celery application know the task."""

    @worker.celery.task(name=TASK)  # type: ignore[untyped-decorator]
    def run(job_id: str) -> None:
        run_job(worker, job_id)


def run_job(worker: Worker, job_id: str) -> None:
    """Do what a message asks for; a message for a job that cannot be claimed is dropped."""
    if worker.stopping.is_set():
        return  # the job stays queued, for another worker's reaper
    with worker.database.writing() as session:
        claim = claims.claim(
            session,
            job_id,
            owner=worker.id,
            lease_seconds=worker.settings.lease_seconds,
            max_attempts=worker.settings.max_attempts,
        )
    if claim is None:
        log.info("job %s is not to be had; its message is dropped", job_id, extra={"job_id": job_id})
        return
    if claim.taken_over:
        worker.metrics.taken_over.inc()
    worker.job_id = job_id
    worker.idle.clear()
    try:
        with logs.context(job_id=job_id, attempt=claim.attempt), worker.metrics.busy.track_inprogress():
            _attempt(worker, claim)
    finally:
        worker.job_id = None
        worker.idle.set()


def _attempt(worker: Worker, claim: Claim) -> None:
    with work_folder(worker.settings.work_dir, f"{claim.job_id}-{claim.attempt}") as folder:
        with LeaseKeeper(worker, claim) as lease:
            began = time.monotonic()
            ending = Attempt(worker, claim, folder=folder, lease=lease).run()
            ended = "cancelled" if lease.cancelled and ending.kind in ("stopped", "died") else ending.kind
            seconds = time.monotonic() - began
            worker.metrics.attempt_ended(claim.kind, ended, seconds=seconds)
            log.info("job %s: attempt %d is %s after %.1f s", claim.job_id, claim.attempt, ended, seconds)
            if ending.kind == "done":
                # The lease is kept while the weights travel to the storage.
                lease.flush()
                outcome.succeed(worker, claim, folder=folder)
                return
            if ending.kind != "lost":
                lease.flush()
        if ending.kind == "failed":
            outcome.end(worker, claim, status="failed", error=ending.error)
        elif lease.cancelled and ending.kind in ("stopped", "died"):
            outcome.end(worker, claim, status="cancelled")
        elif ending.kind == "stopped":
            outcome.give_back(worker, claim)
        elif ending.kind == "died":
            log.warning("job %s: %s", claim.job_id, ending.cause)
            outcome.give_back(worker, claim, failure=ending.cause)
