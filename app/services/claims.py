"""A worker's side of a job's life: claim it, keep the lease, leave checkpoints, finish it or give it back.

Leases run by the database's clock. Every write of a worker is fenced on (owner, attempt): once another worker has
claimed the job, the first one's writes change nothing, however late they come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Update, and_, case, delete, or_, select, update
from sqlalchemy.orm import Session

from app.records import UNFINISHED, Checkpoint, Job, MetricPoint, epoch_now, utc_now
from app.records.upsert import insert
from app.services import parents

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Claim:
    """What a worker holds while it runs a job: the fence (owner, attempt) and what to do."""

    job_id: str
    owner: str
    attempt: int
    kind: str
    spec: Mapping[str, Any]
    register_as: str | None
    parent_id: str | None
    taken_over: bool = False
    """Whether another worker had it, whose lease ran out."""


class Lease(NamedTuple):
    """Whether the claim still stands, and whether a client asked to cancel."""

    held: bool
    cancel: bool


class Point(NamedTuple):
    """One metric value."""

    series: str
    step: int
    value: float


def claim(session: Session, job_id: str, *, owner: str, lease_seconds: float, max_attempts: int) -> Claim | None:
    """Take a job by one conditional UPDATE: a queued one, or a running one whose lease ran out (its worker died).

    None if it is neither, if it is to be cancelled, or if it has died ``max_attempts`` times already.
    """
    before = session.scalar(select(Job.status).where(Job.id == job_id))
    died = case((Job.status == "running", 1), else_=0)
    taken = session.execute(
        update(Job)
        .where(Job.id == job_id, _claimable(), Job.failures + died < max_attempts)
        .values(
            status="running",
            owner=owner,
            attempt=Job.attempt + 1,
            failures=Job.failures + died,
            failure=case((Job.status == "running", "the worker died"), else_=Job.failure),
            lease_until=epoch_now() + lease_seconds,
            started_at=case((Job.started_at.is_(None), utc_now()), else_=Job.started_at),
        )
        .execution_options(synchronize_session=False)
    )
    if _rows(taken) == 0:
        return None
    job = session.get_one(Job, job_id, populate_existing=True)
    return Claim(
        job_id=job.id,
        owner=owner,
        attempt=job.attempt,
        kind=job.kind,
        spec=job.spec,
        register_as=job.register_as,
        parent_id=job.parent_id,
        taken_over=before == "running",
    )


def _claimable() -> Any:
    dead = and_(Job.status == "running", Job.lease_until < epoch_now())
    return and_(Job.queue.is_not(None), Job.cancel_requested.is_(False), or_(Job.status == "queued", dead))


def renew(
    session: Session,
    claim: Claim,
    *,
    lease_seconds: float,
    progress: Mapping[str, Any] | None = None,
    metrics: Sequence[Point] = (),
) -> Lease:
    """Writing. Prolong the lease, and write the progress and the points that came since the last time."""
    values: dict[str, Any] = {"lease_until": epoch_now() + lease_seconds}
    if progress is not None:
        values["progress"] = dict(progress)
    if _rows(session.execute(_fenced(claim).values(**values))) == 0:
        return Lease(held=False, cancel=False)
    if metrics:
        _write_points(session, claim.job_id, metrics)
    cancel = session.execute(select(Job.cancel_requested).where(Job.id == claim.job_id)).scalar_one()
    return Lease(held=True, cancel=cancel)


def _write_points(session: Session, job_id: str, points: Sequence[Point]) -> None:
    """A step that a later attempt repeats replaces the earlier value: a series has one value a step."""
    latest = {(point.series, point.step): point.value for point in points}
    rows = [
        {"job_id": job_id, "series": series, "step": step, "value": value} for (series, step), value in latest.items()
    ]
    statement = insert(session, MetricPoint)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["job_id", "series", "step"], set_={"value": statement.excluded.value}
        ),
        rows,
    )


def record_checkpoint(session: Session, claim: Claim, *, sha256: str, size: int, step: int) -> list[str] | None:
    """Writing. Note a checkpoint that lies in the job's storage; the job's deaths count from zero again.

    Returns the hashes that are no longer needed, for the caller to delete after the commit; None if the claim is lost.
    """
    known = select(Checkpoint.step).where(Checkpoint.job_id == claim.job_id).order_by(Checkpoint.step.desc()).limit(1)
    newest = session.scalar(known)
    values: dict[str, Any] = {"lease_until": Job.lease_until}
    if newest is None or step > newest:
        values |= {"failures": 0, "failure": None}
    if _rows(session.execute(_fenced(claim).values(**values))) == 0:
        return None
    kept = checkpoints(session, claim.job_id)
    # The same once more: the commit's answer was lost on its way, and the worker asked again.
    if not any((known.attempt, known.sha256) == (claim.attempt, sha256) for known in kept):
        session.add(Checkpoint(job_id=claim.job_id, attempt=claim.attempt, step=step, sha256=sha256, size=size))
        session.flush()
        kept = checkpoints(session, claim.job_id)
    old, keep = kept[KEPT_CHECKPOINTS:], {checkpoint.sha256 for checkpoint in kept[:KEPT_CHECKPOINTS]}
    for checkpoint in old:
        session.delete(checkpoint)
    return sorted({checkpoint.sha256 for checkpoint in old} - keep)


def checkpoints(session: Session, job_id: str) -> list[Checkpoint]:
    """Checkpoints of a job, the newest first."""
    return list(session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.id.desc())))


def drop_checkpoint(session: Session, claim: Claim, checkpoint_id: int) -> None:
    """Forget a checkpoint that turned out to be damaged."""
    session.execute(delete(Checkpoint).where(Checkpoint.id == checkpoint_id, Checkpoint.job_id == claim.job_id))


def finish(
    session: Session,
    claim: Claim,
    *,
    status: str,
    result: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
    examples: list[dict[str, Any]] | None = None,
) -> bool:
    """Writing. End the job with a final status. False if the claim is lost; then nothing changed.

    Locks the parent before the job, as everybody does; call :func:`app.services.parents.advance` for the parent in
    the same transaction. The checkpoints of a job that succeeded are forgotten.
    """
    _lock_parent(session, claim)
    values: dict[str, Any] = {
        "status": status,
        "error": _json(error),
        "finished_at": utc_now(),
        "owner": None,
        "lease_until": None,
    }
    if result is not None:
        values |= {"result": dict(result), "examples": examples}
    if _rows(session.execute(_fenced(claim).values(**values))) == 0:
        return False
    if status == "succeeded":
        session.execute(delete(Checkpoint).where(Checkpoint.job_id == claim.job_id))
    session.expire_all()
    return True


def holds(session: Session, claim: Claim) -> bool:
    """Writing. Whether the claim still stands; its row and its parent's stay locked until the transaction ends."""
    _lock_parent(session, claim)
    return _rows(session.execute(_fenced(claim).values(owner=claim.owner))) == 1


def succeeded(session: Session, claim: Claim) -> bool:
    """Whether this very attempt has finished the job already: its commit's answer was lost on its way."""
    mine = (Job.id == claim.job_id, Job.attempt == claim.attempt, Job.status == "succeeded")
    return session.scalar(select(Job.id).where(*mine)) is not None


def release(session: Session, claim: Claim, *, failure: str | None = None, max_attempts: int = 0) -> bool:
    """Writing. Give the job back to the queue; another worker goes on from its last checkpoint.

    A graceful stop passes no ``failure``. With one, a death is counted, and a job that has died ``max_attempts`` times
    without a new checkpoint in between fails with that cause. A job that is to be cancelled is cancelled: nobody would
    take it from the queue. False if the claim is lost; as for :func:`finish`, advance the parent of a job that ended.
    """
    if not holds(session, claim):
        return False
    job = session.get_one(Job, claim.job_id, populate_existing=True)
    if job.cancel_requested:
        return finish(session, claim, status="cancelled")
    values: dict[str, Any] = {"status": "queued", "owner": None, "lease_until": None}
    if failure is not None:
        failures = job.failures + 1
        if failures >= max_attempts:
            return finish(session, claim, status="failed", error=died_error(failures, failure))
        values |= {"failures": failures, "failure": failure}
    return _rows(session.execute(_fenced(claim).values(**values))) == 1


def claimable(session: Session, *, queues: Sequence[str], limit: int = 1) -> list[Job]:
    """The oldest jobs of these queues that wait for a worker, or whose worker died."""
    query = select(Job).where(UNFINISHED, Job.queue.in_(queues), _claimable()).order_by(Job.id).limit(limit)
    return list(session.scalars(query))


def fail_exhausted(session: Session, *, max_attempts: int) -> list[Job]:
    """Writing. End the jobs whose worker died and which nobody may take up again.

    Those that died ``max_attempts`` times without a new checkpoint fail; those that were to be cancelled are cancelled.
    So do those that were handed back by a worker that allowed more attempts: nobody could claim them.
    Returns them; their parents are advanced here.
    """
    died = and_(Job.status == "running", Job.lease_until < epoch_now())
    waits = and_(Job.status == "queued", Job.failures >= max_attempts)
    dead = and_(UNFINISHED, or_(died, waits), Job.queue.is_not(None))
    exhausted = or_(Job.failures + 1 >= max_attempts, Job.cancel_requested)
    ended = []
    for job_id, parent_id in session.execute(select(Job.id, Job.parent_id).where(dead, exhausted)).all():
        if parent_id is not None:
            parents.lock(session, parent_id)
        still = select(Job).where(Job.id == job_id, dead, exhausted).with_for_update()
        job = session.scalars(still.execution_options(populate_existing=True)).first()
        if job is None:
            continue
        job.failures += job.status == "running"
        job.status = "cancelled" if job.cancel_requested else "failed"
        job.error = None if job.cancel_requested else died_error(job.failures, job.failure or "the worker died")
        job.owner, job.lease_until, job.finished_at = None, None, utc_now()
        ended.append(job)
    session.flush()
    for parent_id in sorted({job.parent_id for job in ended if job.parent_id is not None}):
        parents.advance(session, parent_id)
    return ended


def shorten_leases(session: Session, *, lease_seconds: float) -> int:
    """Writing. Let no lease end later than ``lease_seconds`` from now; returns how many would have.

    They do once the database's clock was set back. A worker that lives renews its lease in a moment; without this the
    job of one that died would wait for as long as the clock was set back.
    """
    late = (UNFINISHED, Job.status == "running", Job.lease_until > epoch_now() + 2 * lease_seconds)
    shortened = update(Job).where(*late).values(lease_until=epoch_now() + lease_seconds)
    return _rows(session.execute(shortened.execution_options(synchronize_session=False)))


def died_error(times: int, cause: str) -> dict[str, Any]:
    """The problem object of a job whose process kept dying."""
    title = "The job's process died"
    return {"type": "about:blank", "title": title, "detail": f"it died {times} times without getting further: {cause}"}


def _fenced(claim: Claim) -> Update:
    mine = (Job.owner == claim.owner, Job.attempt == claim.attempt, Job.status == "running")
    return update(Job).where(Job.id == claim.job_id, *mine).execution_options(synchronize_session=False)


def _lock_parent(session: Session, claim: Claim) -> None:
    if claim.parent_id is not None:
        parents.lock(session, claim.parent_id)


def _json(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if value is None else dict(value)


def _rows(outcome: Any) -> int:
    return int(outcome.rowcount)
