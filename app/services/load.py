"""How much work waits, runs and has ended, for the metrics and for `clead doctor`."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from app.records import FINAL, UNFINISHED, Job, epoch_now, utc_now

RECOUNT_SECONDS = 60.0
SHARE = 0.01
"""Of the time, at most this share goes into counting again."""


class FinishedJobs:
    """Finished jobs by status. Threads may share it.

    They pile up, to millions: an index alone is read, and they are counted again after a minute,
    or after a hundred times as long as the last count took.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counted: dict[str, int] = {}
        self._count_again_at = -float("inf")

    def read(self, session: Session) -> dict[str, int]:
        """Status → number of jobs."""
        began = self._clock()
        if began >= self._count_again_at:
            query = select(Job.status, func.count()).where(Job.status.in_(FINAL)).group_by(Job.status)
            found = {row[0]: row[1] for row in session.execute(query)}
            self._counted = {status: found.get(status, 0) for status in FINAL}
            took = self._clock() - began
            self._count_again_at = began + max(RECOUNT_SECONDS, took / SHARE)
        return self._counted


def unfinished_jobs(session: Session) -> dict[tuple[str, str], int]:
    """(kind, status) → number of queued and running jobs; an index leads to them, and they are few."""
    few = select(Job.id).where(UNFINISHED)  # SQLite would rather count all jobs, in an index that has them by kind
    query = select(Job.kind, Job.status, func.count()).where(Job.id.in_(few))
    return {(kind, status): n for kind, status, n in session.execute(query.group_by(Job.kind, Job.status))}


def oldest_waiting(session: Session) -> dict[str, timedelta]:
    """Queue → age of its oldest job that a worker could take now; a queue without one is left out."""
    waits = or_(Job.status == "queued", and_(Job.status == "running", Job.lease_until < epoch_now()))
    query = (
        select(Job.queue, func.min(Job.created_at, type_=Job.created_at.type))
        .where(Job.queue.is_not(None), UNFINISHED, Job.cancel_requested.is_(False), waits)
        .group_by(Job.queue)
    )
    return {str(queue): utc_now() - created for queue, created in session.execute(query)}


def expired_leases(session: Session, *, seconds: float = 0.0) -> list[str]:
    """Ids of the jobs that run by their row, while nobody has renewed their lease for ``seconds`` after its end."""
    query = select(Job.id).where(
        UNFINISHED, Job.status == "running", Job.queue.is_not(None), Job.lease_until < epoch_now() - seconds
    )
    return sorted(session.scalars(query))  # SQLite would sort by going through the ids of all jobs
