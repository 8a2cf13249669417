"""Jobs in the shape of the HTTP contract."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.records import Job
from app.services import parents


def timestamp(moment: datetime | None) -> str | None:
    """ISO 8601 in UTC with a ``Z``, to the millisecond."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def job_view(session: Session, job: Job) -> dict[str, Any]:
    """One job as clients read it."""
    return job_views(session, [job])[0]


def job_views(session: Session, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """Jobs as clients read them, with one query for all their children and one for the state of those that run.

    How far a parent is, is told by its children as they are now.
    """
    divided = [job.id for job in jobs if job.queue is None]
    children: dict[str, list[str]] = {}
    if divided:
        of_these = select(Job.id, Job.parent_id).where(Job.parent_id.in_(divided)).order_by(Job.id)
        for child, parent in session.execute(of_these):
            children.setdefault(str(parent), []).append(child)
    running = [job.id for job in jobs if job.queue is None and job.status == "running"]
    states = parents.states(session, running) if running else {}
    return [_view(job, children.get(job.id, []), parents.progress(job, states.get(job.id, []))) for job in jobs]


def _view(job: Job, children: list[str], progress: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": job.id,
        "kind": job.kind,
        "status": job.status,
        "spec": job.spec if job.register_as is None else {**job.spec, "register_as": job.register_as},
        "progress": progress,
        "result": job.result,
        "error": job.error,
        "attempt": job.attempt,
        "parent": job.parent_id,
        "step": job.step_key,
        "children": children,
        "account": job.account,
        "labels": {label.key: label.value for label in job.labels},
        "created_at": timestamp(job.created_at),
        "started_at": timestamp(job.started_at),
        "finished_at": timestamp(job.finished_at),
    }
