"""What a worker that was killed left in the storage: the files of jobs that have succeeded without them."""

from __future__ import annotations

import logging

from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from app.file_systems import StorageError
from app.records import Job
from worker.context import Worker

log = logging.getLogger(__name__)


def sweep_storage(worker: Worker) -> None:
    """Remove the checkpoints and the evidence of jobs that succeeded; a worker removes those of its own at their end.

    Only what the database says: another installation's jobs, and jobs to be resumed, keep theirs.
    """
    for scope in ("checkpoints", "evidence"):
        try:
            with worker.database.session() as session:
                found = select(Job.id).where(Job.id.in_(worker.storage.scopes(scope)), Job.status == "succeeded")
                done = list(session.scalars(found))
            for job_id in done:
                worker.storage.scoped(f"{scope}/{job_id}").clear()
        except (OperationalError, StorageError) as error:
            log.warning("the storage is not swept: %s", error)
            return
        for job_id in done:
            log.info("removed the %s of job %s, left by a worker that was killed", scope, job_id)
