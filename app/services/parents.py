"""Jobs whose children do the work: a protocol and its steps, a large evaluation and its shards.

A parent has no queue and is never claimed. It is advanced in the transaction that finishes a child: steps whose inputs
are ready are added (``(parent_id, step_key)`` is unique, so twice is once), and the last child ends the parent, which
may be a child itself. Rows are locked from the eldest ancestor down, so two children that finish at once advance their
parent one after the other, and nobody waits in a circle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import DomainError
from app.records import FINAL, Job, utc_now
from app.services import models
from app.services.parent_kind import ChildState, ParentKind
from app.services.submission import QUEUES, add_job
from models.registry import UnknownNameError


def _protocol() -> ParentKind:
    from app.services.protocol import PROTOCOL

    return PROTOCOL


def _sharded() -> ParentKind:
    from app.services.shards import SHARDED

    return SHARDED


KINDS: Mapping[str, Callable[[], ParentKind]] = {"protocol": _protocol, "evaluate": _sharded}
"""Imported when such a parent is met: they check specs with torch, which a worker's own process can be without."""


def prepare() -> None:
    """Import what :func:`advance` needs, so that it is not done inside a transaction, which others may wait for."""
    for kind in KINDS.values():
        kind()


def start(
    session: Session,
    *,
    kind: str,
    spec: Mapping[str, Any],
    labels: Mapping[str, str] | None = None,
    register_as: str | None = None,
    account: str | None = None,
    parent_id: str | None = None,
    step_key: str | None = None,
) -> Job:
    """Writing. Add a ``queued`` job; or a ``running`` parent with its first children, if its children do the work."""
    divided = kind in KINDS and KINDS[kind]().divides(session, spec)
    job = add_job(
        session,
        kind=kind,
        queue=None if divided else QUEUES[kind],
        spec=spec,
        labels=labels,
        register_as=register_as,
        account=account,
        parent_id=parent_id,
        step_key=step_key,
    )
    if divided:
        job.status = "running"
        job.started_at = utc_now()
        job.progress = {"total": KINDS[kind]().total(session, job)}
        session.flush()
        advance(session, job.id)
    return job


def children(session: Session, job: Job, *, lock: bool = False) -> list[Job]:
    """The steps added so far, oldest first."""
    query = select(Job).where(Job.parent_id == job.id).order_by(Job.id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return list(session.scalars(query))


def runnable(session: Session, job: Job) -> list[Job]:
    """The queued jobs that a worker may take now because of ``job``: itself, or those below a parent."""
    if job.queue is not None:
        return [job] if job.status == "queued" else []
    return [found for child in children(session, job) for found in runnable(session, child)]


def lock(session: Session, job_id: str) -> Job | None:
    """The job, its row locked after those of its ancestors, the eldest first; None if it is not there."""
    line = [job_id]
    while (parent_id := session.scalar(select(Job.parent_id).where(Job.id == line[-1]))) is not None:
        line.append(parent_id)
    job = None
    for member in reversed(line):
        job = session.get(Job, member, with_for_update=True, populate_existing=True)
    return job


def advance(session: Session, parent_id: str) -> list[Job]:
    """Writing. Bring a parent up to what its children have reached, and its own parent if that ends it.

    Returns the jobs that were added for workers to take. A failed or cancelled child ends the parent likewise, after
    the others were cancelled and have stopped.
    """
    parent = lock(session, parent_id)
    if parent is None or parent.queue is not None or parent.status != "running":
        return []
    below = {str(child.step_key): child for child in children(session, parent)}
    parent.failure = parent.failure or _cause(below.values())
    cancelled = parent.cancel_requested or any(child.status == "cancelled" for child in below.values())
    session.flush()
    added: list[Job] = []
    if parent.failure is None and not cancelled:
        try:
            added = _add_ready(session, parent, below)
        except DomainError as error:
            # What a later step needs was deleted since: the finished child stands, the parent cannot go on.
            parent.failure = error.detail
        except (ValidationError, UnknownNameError) as error:
            # Nor where a later program wrote its spec.
            parent.failure = f"this program cannot read the {parent.kind}'s spec: {error}"
    if parent.failure is not None or cancelled:
        _wind_up(session, parent)
    _show_progress(session, parent)
    session.flush()
    if parent.status in FINAL and parent.parent_id is not None:
        added += advance(session, parent.parent_id)
    return added


def _add_ready(session: Session, parent: Job, below: Mapping[str, Job]) -> list[Job]:
    kind = KINDS[parent.kind]()
    plan = kind.steps(session, parent)
    finished = {key: child for key, child in below.items() if child.status == "succeeded"}
    labels = {label.key: label.value for label in parent.labels}
    added: list[Job] = []
    for step in plan:
        if step.key in below or not all(need in finished for need in step.needs):
            continue
        spec, register_as = step.resolve(session, finished)
        child = start(
            session,
            kind=step.kind,
            spec=spec,
            labels=labels,
            register_as=register_as,
            account=parent.account,
            parent_id=parent.id,
            step_key=step.key,
        )
        added += runnable(session, child)
    if len(finished) == len(plan):
        kind.conclude(session, parent, finished)
        parent.status = "succeeded"
        parent.finished_at = utc_now()
    return added


def _cause(below: Iterable[Job]) -> str | None:
    """Why the parent failed: the first step that did."""
    for child in below:
        if child.status == "failed":
            detail = (child.error or {}).get("detail", "no cause was recorded")
            return f"step {child.step_key} (job {child.id}) failed: {detail}"
    return None


def request_cancel(session: Session, job: Job) -> None:
    """Writing. Ask a locked, unfinished job to stop: a waiting one is cancelled here, a running one by its worker.

    With a parent everything below it stops; it is final once nothing below it runs.
    """
    job.cancel_requested = True
    if job.queue is None:
        _wind_up(session, job)
        _show_progress(session, job)
    elif job.status == "queued":
        job.status = "cancelled"
        job.finished_at = utc_now()
    session.flush()


def _wind_up(session: Session, parent: Job) -> None:
    """Cancel what still waits or runs; end the parent once nothing does."""
    session.flush()
    unfinished = [child for child in children(session, parent, lock=True) if child.status not in FINAL]
    for child in unfinished:
        request_cancel(session, child)
    if any(child.status == "running" for child in unfinished):
        return
    parent.finished_at = utc_now()
    parent.status = "cancelled" if parent.failure is None else "failed"
    if parent.failure is not None:
        title = "A step of the job failed"
        parent.error = {"type": "about:blank", "title": title, "detail": parent.failure}


def reopen(session: Session, job: Job) -> None:
    """Writing. Queue a locked, failed or cancelled job again; of a parent, what below it has not succeeded."""
    job.status = "running" if job.queue is None else "queued"
    job.cancel_requested = False
    job.failures = 0
    job.failure = None
    job.error = None
    job.finished_at = None
    session.flush()
    if job.queue is not None:
        return
    for child in children(session, job, lock=True):
        if child.status in ("failed", "cancelled"):
            reopen(session, child)
    advance(session, job.id)


def needed_models(session: Session, job: Job) -> set[str]:
    """References of the models that a failed or cancelled job goes on with.

    Its own, those of the children that have not succeeded, and those that steps not added yet will take from others.
    """
    needed = set(models.references(job.spec).values())
    if job.queue is not None:
        return needed
    below = {str(child.step_key): child for child in children(session, job)}
    for child in below.values():
        if child.status != "succeeded":
            needed |= needed_models(session, child)
    for step in KINDS[job.kind]().steps(session, job):
        if step.key not in below:
            results = (below[need].result or {} for need in step.needs if need in below)
            needed |= {str(result["model"]) for result in results if "model" in result}
    return needed


def states(session: Session, parent_ids: Sequence[str]) -> dict[str, list[ChildState]]:
    """How far the children of these jobs are, oldest first."""
    columns = (Job.kind, Job.step_key, Job.status, Job.progress, Job.started_at, Job.finished_at)
    query = select(Job.parent_id, *columns).where(Job.parent_id.in_(parent_ids)).order_by(Job.id)
    found: dict[str, list[ChildState]] = {}
    for parent_id, *state in session.execute(query):
        found.setdefault(parent_id, []).append(ChildState(*state))
    return found


def progress(parent: Job, below: Sequence[ChildState]) -> dict[str, Any] | None:
    """How far a parent is, from its children as they are now."""
    if parent.progress is None or not below:
        return parent.progress
    shown = KINDS[parent.kind]().progress(below, parent.progress["total"])
    return shown if parent.status == "running" else {**shown, "stage": parent.status, "eta_seconds": None}


def _show_progress(session: Session, parent: Job) -> None:
    session.flush()
    parent.progress = progress(parent, states(session, [parent.id]).get(parent.id, []))
