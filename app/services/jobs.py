"""Jobs as clients see them: submit, list, cancel, resume, read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import ConflictError, NotFoundError
from app.records import FINAL, Job, JobLabel, utc_now
from app.services import protocol, views
from app.services.paging import DEFAULT_LIMIT, Page, make_cursor, read_cursor, take_limit
from app.services.submission import add_job


def submit(
    session: Session,
    *,
    kind: str,
    spec: dict[str, Any],
    labels: Mapping[str, str] | None = None,
    register_as: str | None = None,
    parent_id: str | None = None,
    step_key: str | None = None,
) -> Job:
    """Writing. Add a ``queued`` job with a spec that :func:`app.services.specs.validate` resolved.

    A protocol job gets its first children in the same transaction and is ``running`` from then on.
    The caller commits and then publishes: the job itself, or :func:`runnable` of a protocol job.
    """
    job = add_job(
        session,
        kind=kind,
        spec=spec,
        labels=labels,
        register_as=register_as,
        parent_id=parent_id,
        step_key=step_key,
    )
    if kind == "protocol":
        protocol.expand(session, job)
    return job


def runnable(session: Session, job: Job) -> list[Job]:
    """The queued jobs that a worker may take now because of ``job``: itself, or a protocol job's children."""
    if job.queue is not None:
        return [job] if job.status == "queued" else []
    waiting = select(Job).where(Job.parent_id == job.id, Job.status == "queued").order_by(Job.id)
    return list(session.scalars(waiting))


def get(session: Session, job_id: str) -> Job:
    """The job; NotFoundError."""
    job = session.get(Job, job_id)
    if job is None:
        raise NotFoundError(f"there is no job {job_id!r}")
    return job


def list_jobs(
    session: Session,
    *,
    kind: str | None = None,
    status: str | None = None,
    label: Mapping[str, str] | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[Job]:
    """Jobs, newest first, that match every given filter; ``label`` holds pairs that must all be there."""
    query = select(Job).order_by(Job.id.desc()).limit(take_limit(limit) + 1)
    if kind is not None:
        query = query.where(Job.kind == kind)
    if status is not None:
        query = query.where(Job.status == status)
    for key, value in (label or {}).items():
        query = query.where(Job.labels.any((JobLabel.key == key) & (JobLabel.value == value)))
    if cursor is not None:
        query = query.where(Job.id < read_cursor(cursor)[0])
    found = list(session.scalars(query))
    items = found[:limit]
    return Page(items, make_cursor(items[-1].id) if len(found) > limit else None)


def cancel(session: Session, job_id: str) -> Job:
    """Writing. Cancel a waiting job at once; ask a running one to stop. ConflictError if it is finished."""
    job = _locked(session, job_id)
    if job.status in FINAL:
        raise ConflictError(f"job {job.id} is {job.status} already; only a queued or running job can be cancelled")
    request_cancel(job)
    if job.kind == "protocol":
        for child in protocol.children(session, job, lock=True):
            if child.status not in FINAL:
                request_cancel(child)
        session.flush()
        protocol.advance(session, job.id)
    elif job.parent_id is not None and job.status in FINAL:
        session.flush()
        protocol.advance(session, job.parent_id)
    return job


def request_cancel(job: Job) -> None:
    """Mark a locked, unfinished job: waiting ones are cancelled here, running ones by their worker."""
    job.cancel_requested = True
    if job.status == "queued":
        job.status = "cancelled"
        job.finished_at = utc_now()


def resume(session: Session, job_id: str) -> Job:
    """Writing. Queue a failed or cancelled job again; it goes on from its last checkpoint. Else ConflictError."""
    job = _locked(session, job_id)
    if job.status not in ("failed", "cancelled"):
        raise ConflictError(f"job {job.id} is {job.status}; only a failed or cancelled job can be resumed")
    if job.parent_id is not None:
        raise ConflictError(f"job {job.id} is a step of the protocol job {job.parent_id}; resume that one")
    if job.kind != "protocol":
        _reopen(job, "queued")
        return job
    steps = protocol.children(session, job, lock=True)
    if any(child.status == "running" for child in steps):
        raise ConflictError(f"steps of job {job.id} are still stopping; resume it when they have")
    _reopen(job, "running")
    for child in steps:
        if child.status in ("failed", "cancelled"):
            _reopen(child, "queued")
    session.flush()
    protocol.advance(session, job.id)
    return job


def _reopen(job: Job, status: str) -> None:
    job.status = status
    job.cancel_requested = False
    job.failures = 0
    job.failure = None
    job.error = None
    job.finished_at = None


def _locked(session: Session, job_id: str) -> Job:
    """The job, its row locked, after its parent's: everybody locks parents first, so nobody waits in a circle."""
    parent_id = session.scalar(select(Job.parent_id).where(Job.id == job_id))
    if parent_id is not None:
        session.get(Job, parent_id, with_for_update=True)
    job = session.get(Job, job_id, with_for_update=True, populate_existing=True)
    if job is None:
        raise NotFoundError(f"there is no job {job_id!r}")
    return job


# The views live in a file of their own; callers find the whole of a job's reading here.
job_view = views.job_view
job_views = views.job_views
metric_series = views.metric_series
metrics_after = views.metrics_after
