"""Jobs as clients see them: submit, list, cancel, resume, read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased, defer

from app.errors import ConflictError, NotFoundError
from app.records import FINAL, LISTED, Job, JobLabel
from app.services import metrics, models, parents, views
from app.services.paging import DEFAULT_LIMIT, Page, make_cursor, read_cursor, take_limit
from app.services.tokens import OPERATOR, Principal


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


def get(session: Session, job_id: str) -> Job:
    """The job; NotFoundError."""
    job = session.get(Job, job_id)
    if job is None:
        raise _missing(job_id)
    return job


def require(session: Session, job_id: str, *, asking: Principal) -> None:
    """NotFoundError unless the job is there and theirs. Its row, which is wide, is not read."""
    found = session.execute(select(Job.account).where(Job.id == job_id)).first()
    if found is None or not asking.owns(found.account):
        raise _missing(job_id)


def _missing(job_id: str) -> NotFoundError:
    return NotFoundError(f"there is no job {job_id!r}")


def list_jobs(
    session: Session,
    *,
    asking: Principal = OPERATOR,
    kind: str | None = None,
    status: str | None = None,
    labels: Collection[tuple[str, str]] = (),
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Page[Job]:
    """Jobs that are theirs, newest first, that match every filter given and carry every label, a pair of key and value.

    The parts of an evaluation are left out unless their kind is asked for. The jobs come without their examples.
    """
    query = select(Job.id).where(LISTED if kind is None else Job.kind == kind)
    if not asking.owns(None):
        query = query.where(Job.account == asking.account)
    if status is not None:
        query = query.where(Job.status == status)
    for key, value in labels:
        label = aliased(JobLabel)
        query = query.join(label, (label.job_id == Job.id) & (label.key == key) & (label.value == value))
    if cursor is not None:
        query = query.where(Job.id < read_cursor(cursor)[0])
    # Ids alone are sought, so that indexes can tell them; the rows, which are wide, are fetched for one page.
    page = query.order_by(Job.id.desc()).limit(take_limit(limit) + 1).subquery()
    rows = select(Job).join(page, page.c.id == Job.id).order_by(Job.id.desc()).options(defer(Job.examples))
    found = list(session.scalars(rows))
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

    Of a job whose children do the work, those that have not succeeded are queued again. ConflictError, too, if a model
    that any of them needs was deleted meanwhile.
    """
    job = _locked(session, job_id)
    if job.status not in ("failed", "cancelled"):
        raise ConflictError(f"job {job.id} is {job.status}; only a failed or cancelled job can be resumed")
    if job.parent_id is not None:
        raise ConflictError(f"job {job.id} is a step of job {job.parent_id}; resume that one")
    if any(child.status == "running" for child in parents.children(session, job, lock=True)):
        raise ConflictError(f"steps of job {job.id} are still stopping; resume it when they have")
    for reference in sorted(parents.needed_models(session, job)):
        _require_model(session, job, reference)
    parents.reopen(session, job)
    return job


def _require_model(session: Session, job: Job, reference: str) -> None:
    try:
        models.resolve(session, reference)
    except NotFoundError:
        detail = f"job {job.id} cannot go on: it needs the model {reference}, which was deleted"
        raise ConflictError(detail) from None


def _locked(session: Session, job_id: str) -> Job:
    job = parents.lock(session, job_id)
    if job is None:
        raise _missing(job_id)
    return job


# These live in files of their own; callers find the whole of a job's reading here.
runnable = parents.runnable
job_view = views.job_view
job_views = views.job_views
metric_series = metrics.metric_series
metrics_after = metrics.metrics_after
