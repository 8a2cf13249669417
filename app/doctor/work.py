"""Workers and jobs: somebody serves each queue, and nothing waits that could run."""

from __future__ import annotations

import time
from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.doctor.findings import Finding, Site, failed, ok
from app.queue import QUEUES
from app.records import UNFINISHED, Job
from app.services import load
from app.services import workers as worker_service

LONG_SECONDS = 60.0
LEASES = 2
"""A reaper takes a job over within one lease and a round; after two nobody will."""


def workers(site: Site) -> Iterator[Finding]:
    """Workers seen lately, for each queue."""
    with site.opened_database().session() as session:
        alive = worker_service.seen_lately(session, seconds=site.settings.lease_seconds)
    for queue in QUEUES:
        serving = [worker for worker in alive if queue in worker.queues]
        if serving:
            hosts = ", ".join(sorted({worker.host for worker in serving}))
            yield ok("workers", f"{len(serving)} for the queue {queue}, on {hosts}")
        else:
            yield failed("workers", f"none for the queue {queue}", advice=f"clead worker --queues {queue}")


def abandoned_jobs(site: Site) -> Iterator[Finding]:
    """Jobs that run by their row although nobody renews their lease."""
    with site.opened_database().session() as session:
        stuck = load.expired_leases(session, seconds=(LEASES - 1) * site.settings.lease_seconds)
    if stuck:
        detail = f"{len(stuck)} run by their row, but their workers are gone: {', '.join(stuck[:3])}"
        yield failed("abandoned jobs", detail, advice="start a worker: it takes them over from their last checkpoint")
    else:
        yield ok("abandoned jobs", "none")


def waiting_jobs(site: Site) -> Iterator[Finding]:
    """Jobs that wait long while a worker of their queue is idle; looked at twice, for one may just have come back."""
    database = site.opened_database()
    with database.session() as session:
        first = _waiting_beside_idle(session, lease_seconds=site.settings.lease_seconds)
    if first:
        time.sleep(2 * site.settings.reaper_seconds + 1)  # an idle worker's reaper comes by in this time
        with database.session() as session:
            first &= _waiting_beside_idle(session, lease_seconds=site.settings.lease_seconds)
    if first:
        detail = f"{', '.join(sorted(first)[:3])}: waiting although a worker of the queue is idle"
        yield failed("waiting jobs", detail, advice="do workers and API have the same CLEAD_BROKER_URL? See their logs")
    else:
        yield ok("waiting jobs", "none that an idle worker could take")


def _waiting_beside_idle(session: Session, *, lease_seconds: float) -> set[str]:
    """Ids of the oldest queued jobs of queues that an idle worker serves; as many as there are such workers."""
    alive = worker_service.seen_lately(session, seconds=lease_seconds)
    idle = [worker for worker in alive if worker.job_id is None]
    oldest = load.oldest_waiting(session)
    found: set[str] = set()
    for queue in {queue for worker in idle for queue in worker.queues}:
        if queue in oldest and oldest[queue].total_seconds() > LONG_SECONDS:
            waiting = select(Job.id).where(UNFINISHED, Job.queue == queue, Job.status == "queued")
            waiting = waiting.where(Job.cancel_requested.is_(False)).order_by(Job.id).limit(len(idle))
            found |= set(session.scalars(waiting))
    return found
