"""The one Celery task: claim the job that a message names, run an attempt at it, write the outcome."""

from __future__ import annotations

import logging
import time

from app import logs
from app.file_systems import StorageError
from app.folders import work_folder
from app.queue import TASK
from app.services import claims
from app.services.claims import Claim
from worker import outcome
from worker.attempt import Attempt, Ending, reason, without_storage
from worker.context import Worker
from worker.lease import LeaseKeeper

log = logging.getLogger(__name__)


def register(worker: Worker) -> None:
    """Let ``worker``'s Celery application know the task."""

    @worker.celery.task(name=TASK)  # type: ignore[untyped-decorator]
    def run(job_id: str) -> None:
        run_job(worker, job_id)


def run_job(worker: Worker, job_id: str) -> None:
    """Do what a message asks for; a message for a job that cannot be claimed is dropped."""
    if worker.stopping.is_set() or not worker.at_work.acquire(blocking=False):
        return  # the job stays queued, for a reaper
    try:
        _claim_and_run(worker, job_id)
    finally:
        worker.at_work.release()


def _claim_and_run(worker: Worker, job_id: str) -> None:
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
    began = time.monotonic()
    with LeaseKeeper(worker, claim) as lease:
        ending = _run_in_folder(worker, claim, lease)
        if ending.kind not in ("done", "lost"):
            lease.flush()
    ended = "cancelled" if lease.cancelled and ending.kind in ("stopped", "died") else ending.kind
    seconds = time.monotonic() - began
    worker.metrics.attempt_ended(claim.kind, ended, seconds=seconds)
    log.info("job %s: attempt %d is %s after %.1f s", claim.job_id, claim.attempt, ended, seconds)
    if ended == "failed":
        outcome.end(worker, claim, status="failed", error=ending.error)
    elif ended == "cancelled":
        outcome.end(worker, claim, status="cancelled")
    elif ended == "stopped":
        outcome.give_back(worker, claim)
    elif ended == "died":
        log.warning("job %s: %s", claim.job_id, ending.cause)
        outcome.give_back(worker, claim, failure=ending.cause)


def _run_in_folder(worker: Worker, claim: Claim, lease: LeaseKeeper) -> Ending:
    """Run the child and, if it is done, keep what it made. A disk that is full or fails is a way to die, too."""
    try:
        with work_folder(worker.settings.work_dir, f"{claim.job_id}-{claim.attempt}") as folder:
            ending = Attempt(worker, claim, folder=folder, lease=lease).run()
            if ending.kind == "done":
                # The lease is kept while the weights travel to the storage.
                lease.flush()
                outcome.succeed(worker, claim, folder=folder)
            return ending
    except StorageError as error:
        log.warning("job %s: the storage is away", claim.job_id, exc_info=True)
        return without_storage(worker, error)
    except OSError as error:
        log.warning("job %s: this machine failed", claim.job_id, exc_info=True)
        return Ending("died", cause=f"its worker's machine failed: {reason(error)}")
