"""Which workers live."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.records import WorkerRecord, epoch_now

FORGET_SECONDS = 24 * 3600.0


def beat(session: Session, worker_id: str, *, host: str, pid: int, queues: Sequence[str], job_id: str | None) -> None:
    """Writing. Note that this worker lives now, and what it does."""
    record = session.get(WorkerRecord, worker_id)
    if record is None:
        record = WorkerRecord(id=worker_id, host=host, pid=pid, queues=list(queues), seen_at=0.0)
        session.add(record)
    record.job_id = job_id
    record.seen_at = session.execute(select(epoch_now())).scalar_one()
    session.execute(delete(WorkerRecord).where(WorkerRecord.seen_at < record.seen_at - FORGET_SECONDS))


def leave(session: Session, worker_id: str) -> None:
    """Note that this worker has stopped."""
    session.execute(delete(WorkerRecord).where(WorkerRecord.id == worker_id))


def seen_lately(session: Session, *, seconds: float) -> list[WorkerRecord]:
    """Workers that gave a sign of life within the last ``seconds``."""
    # Seen in the future: the clock was set back, and who lives will be seen again in a moment.
    lately = WorkerRecord.seen_at.between(epoch_now() - seconds, epoch_now() + seconds)
    return list(session.scalars(select(WorkerRecord).where(lately).order_by(WorkerRecord.id)))
