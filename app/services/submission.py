"""Adding a job's row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from app.records import Job, JobLabel

SHARD, MERGE = "shard", "merge"
"""Kinds of the children of a large evaluation."""
QUEUES = {
    **dict.fromkeys(("pretrain", "probe", "train"), "train"),
    **dict.fromkeys(("evaluate", "corruptions", SHARD, MERGE), "evaluate"),
}
"""Queue of each kind of job that a worker runs. A protocol job is not among them: its children are."""


def add_job(
    session: Session,
    *,
    kind: str,
    queue: str | None,
    spec: Mapping[str, Any],
    labels: Mapping[str, str] | None = None,
    register_as: str | None = None,
    account: str | None = None,
    parent_id: str | None = None,
    step_key: str | None = None,
) -> Job:
    """Add a ``queued`` job; ``queue`` None: its children do the work."""
    job = Job(
        kind=kind,
        status="queued",
        queue=queue,
        spec=dict(spec),
        register_as=register_as,
        account=account,
        parent_id=parent_id,
        step_key=step_key,
        labels=[JobLabel(key=key, value=value) for key, value in (labels or {}).items()],
    )
    session.add(job)
    session.flush()
    return job
