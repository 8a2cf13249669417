"""Protocol jobs: a parent whose children do the work.

A parent is never claimed. It is advanced in the transaction that finishes a child: steps whose inputs are ready are
added (``(parent_id, step_key)`` is unique, so twice is once), and the last child ends the parent. The parent's row is
locked first, so two children that finish at once advance it one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import DomainError
from app.records import FINAL, Job, utc_now
from app.services import compare, datasets, specs
from app.services.plan import Step, steps
from app.services.presets import ProtocolParams
from app.services.submission import add_job


def expand(session: Session, job: Job) -> list[Job]:
    """Start a protocol job: it runs from now on, and its first children are added. Returns them."""
    job.status = "running"
    job.started_at = utc_now()
    session.flush()
    return advance(session, job.id)


def children(session: Session, job: Job, *, lock: bool = False) -> list[Job]:
    """The steps added so far, oldest first."""
    query = select(Job).where(Job.parent_id == job.id).order_by(Job.id)
    if lock:
        query = query.with_for_update().execution_options(populate_existing=True)
    return list(session.scalars(query))


def advance(session: Session, parent_id: str) -> list[Job]:
    """Writing. Bring a protocol job up to what its children have reached; returns the children that were added.

    A failed or cancelled child ends the parent likewise, after the others were cancelled and have stopped.
    """
    parent = session.get(Job, parent_id, with_for_update=True, populate_existing=True)
    if parent is None or parent.kind != "protocol" or parent.status != "running":
        return []
    done = {child.step_key: child for child in children(session, parent)}
    params = ProtocolParams.model_validate(parent.spec)
    plan = steps(params, datasets.find(session, params.dataset.name))
    parent.failure = parent.failure or _cause(done.values())
    cancelled = parent.cancel_requested or any(child.status == "cancelled" for child in done.values())
    added: list[Job] = []
    if parent.failure is None and not cancelled:
        try:
            added = _add_ready(session, parent, plan, done)
        except DomainError as error:
            # What a later step needs was deleted since: the finished child stands, the protocol cannot go on.
            parent.failure = error.detail
    if parent.failure is not None or cancelled:
        _wind_up(session, parent)
    _show_progress(session, parent, plan)
    session.flush()
    return added


def _add_ready(session: Session, parent: Job, plan: list[Step], done: Mapping[str | None, Job]) -> list[Job]:
    succeeded = {key: child for key, child in done.items() if child.status == "succeeded"}
    references = {str(key): child.result["model"] for key, child in succeeded.items() if child.result}
    added = []
    for step in plan:
        if step.key in done or (step.needs is not None and step.needs not in succeeded):
            continue
        spec, register_as, _ = specs.validate(session, kind=step.kind, body=step.body(references))
        labels = {label.key: label.value for label in parent.labels}
        added.append(
            add_job(
                session,
                kind=step.kind,
                spec=spec,
                labels=labels,
                register_as=register_as,
                parent_id=parent.id,
                step_key=step.key,
            )
        )
    if len(succeeded) == len(plan):
        parent.result = compare.protocol_result(plan, succeeded, seed=parent.spec["seed"])
        parent.status = "succeeded"
        parent.finished_at = utc_now()
    return added


def _cause(done: Iterable[Job]) -> str | None:
    """Why the protocol failed: the first step that did."""
    for child in done:
        if child.status == "failed":
            detail = (child.error or {}).get("detail", "no cause was recorded")
            return f"step {child.step_key} (job {child.id}) failed: {detail}"
    return None


def _wind_up(session: Session, parent: Job) -> None:
    """Cancel what still waits or runs; end the parent once nothing does."""
    unfinished = [child for child in children(session, parent, lock=True) if child.status not in FINAL]
    for child in unfinished:
        child.cancel_requested = True
        if child.status == "queued":
            child.status = "cancelled"
            child.finished_at = utc_now()
    if any(child.status == "running" for child in unfinished):
        return
    parent.finished_at = utc_now()
    parent.status = "cancelled" if parent.failure is None else "failed"
    if parent.failure is not None:
        title = "A step of the protocol failed"
        parent.error = {"type": "about:blank", "title": title, "detail": parent.failure}


def _show_progress(session: Session, parent: Job, plan: list[Step]) -> None:
    session.flush()
    now = children(session, parent)
    running = [str(child.step_key) for child in now if child.status == "running"]
    waiting = [str(child.step_key) for child in now if child.status == "queued"]
    parent.progress = {
        "done": sum(child.status == "succeeded" for child in now),
        "total": len(plan),
        "unit": "step",
        "stage": next(iter(running or waiting), parent.status),
        "eta_seconds": None,
    }
