"""Jobs as clients see them: submit, list, cancel, resume, read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import ConflictError, NotFoundError
from app.records import FINAL, Job, JobLabel
from app.services import parents, views
from app.services.paging import DEFAULT_LIMIT, Page, make_cursor, read_cursor, take_limit
from app.services.tokens import OPERATOR, Principal

PARTS = ("shard", "merge")
"""Kinds of job that an evaluation cuts itself into; no client posts them."""


def submit(
    session: Session,
    *,
    kind: str,
    spec: dict[str, Any],
    labels: Mapping[str, str] | None = None,
    register_as: str | None = None,
    account: str | None = None,
    parent_id: str | None = None,
    step_key: str | None = None,
) -> Job:
    """Writing. Add a ``queued`` job with a spec that :func:`app.services.specs.validate` resolved.

    A protocol or a large evaluation gets its first children in the same transaction and is ``running`` from then on.
    The caller commits and then publishes what is :func:`runnable`.
    """
    return parents.start(
        session,
        kind=kind,
        spec=spec,
        labels=labels,
        register_as=register_as,
        account=account,
        parent_id=parent_id,
        step_key=step_key,
    )


def get(session: Session, job_id: str, *, asking: Principal = OPERATOR) -> Job:
    """The job; NotFoundError, also for one that is not theirs."""
    job = session.get(Job, job_id)
    if job is None or not asking.owns(job.account):
        raise NotFoundError(f"there is no job {job_id!r}")
    return job


def list_jobs(
    session: Session,
    *,
    asking: Principal = OPERATOR,
    kind: str | None = None,
    status: str | None = None,
    label: Mapping[str, str] | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[Job]:
    """Jobs that are theirs, newest first, that match every given filter; ``label`` holds pairs that must all be there.

    The parts of an evaluation are left out unless their kind is asked for.
    """
    query = select(Job).order_by(Job.id.desc()).limit(take_limit(limit) + 1)
    query = query.where(Job.kind.not_in(PARTS) if kind is None else Job.kind == kind)
    if not asking.owns(None):
        query = query.where(Job.account == asking.account)
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
    parents.request_cancel(session, job)
    if job.parent_id is not None and job.status in FINAL:
        parents.advance(session, job.parent_id)
    return job


def resume(session: Session, job_id: str) -> Job:
    """Writing. Queue a failed or cancelled job again; it goes on from its last checkpoint. Else ConflictError.

    Of a job whose children do the work, those that have not succeeded are queued again.
    """
    job = _locked(session, job_id)
    if job.status not in ("failed", "cancelled"):
        raise ConflictError(f"job {job.id} is {job.status}; only a failed or cancelled job can be resumed")
    if job.parent_id is not None:
        raise ConflictError(f"job {job.id} is a step of job {job.parent_id}; resume that one")
    if any(child.status == "running" for child in parents.children(session, job, lock=True)):
        raise ConflictError(f"steps of job {job.id} are still stopping; resume it when they have")
    parents.reopen(session, job)
    return job


def _locked(session: Session, job_id: str) -> Job:
    job = parents.lock(session, job_id)
    if job is None:
        raise NotFoundError(f"there is no job {job_id!r}")
    return job


# These live in files of their own; callers find the whole of a job's reading here.
runnable = parents.runnable
job_view = views.job_view
job_views = views.job_views
metric_series = views.metric_series
metrics_after = views.metrics_after
