"""Writes how an attempt ended, in one fenced transaction: job finished, model registered, parent advanced."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app.queue import publish
from app.records import Job
from app.services import claims, models, parents
from app.services.claims import Claim
from app.storage import Artifact
from worker.context import Worker

log = logging.getLogger(__name__)

T = TypeVar("T")
RETRIES = 30
PICTURES = ("clean", "adversarial", "difference")


def succeed(worker: Worker, claim: Claim, *, folder: Path) -> None:
    """Keep what the child left in ``folder``, and finish the job as succeeded."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    weights = folder / "weights.safetensors"
    artifact = worker.storage.put_file(weights) if weights.exists() else None
    examples = _store_examples(worker, folder)
    pixels = worker.storage.put_file(folder / "examples.safetensors") if examples else None
    evidence = _store_evidence(worker, claim, folder)

    def write(session: Session) -> list[Job] | None:
        if not claims.holds(session, claim):
            return None
        final = dict(result)
        if artifact is not None:
            card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
            final["model"] = _register(session, claim, artifact, card=card, result=result)
        if evidence is not None:
            final["evidence"] = evidence
        if examples is not None:
            final["examples"] = f"/jobs/{claim.job_id}/examples"
        if pixels is not None:
            final["examples_file"] = {"sha256": pixels.sha256, "size": pixels.size}
        claims.finish(session, claim, status="succeeded", result=final, examples=examples)
        return _advance(session, claim)

    if _commit(worker, claim, write):
        worker.checkpoints_of(claim.job_id).clear()
        if claim.kind == "merge" and claim.parent_id is not None:
            worker.evidence_of(claim.parent_id).clear()


def end(worker: Worker, claim: Claim, *, status: str, error: Mapping[str, Any] | None = None) -> None:
    """Finish the job as failed or cancelled; it keeps its checkpoints, to be resumed from."""

    def write(session: Session) -> list[Job] | None:
        if not claims.finish(session, claim, status=status, error=error):
            return None
        return _advance(session, claim)

    _commit(worker, claim, write)


def give_back(worker: Worker, claim: Claim, *, failure: str | None = None) -> None:
    """Queue the job again (or fail it, if it died too often), for the next worker to go on with."""

    def write(session: Session) -> list[Job] | None:
        attempts = worker.settings.max_attempts
        if not claims.release(session, claim, failure=failure, max_attempts=attempts):
            return None
        job = session.get_one(Job, claim.job_id, populate_existing=True)
        return [job] if job.status == "queued" else _advance(session, claim)

    _commit(worker, claim, write)


def _register(
    session: Session, claim: Claim, artifact: Artifact, *, card: Mapping[str, Any], result: Mapping[str, Any]
) -> str:
    metrics = {name: value for name, value in result.items() if isinstance(value, int | float)}
    version = models.register_version(
        session,
        name=claim.register_as or f"job-{claim.job_id}",
        sha256=artifact.sha256,
        size=artifact.size,
        card=card,
        job_id=claim.job_id,
        account=session.get_one(Job, claim.job_id).account,
        metrics=metrics,
    )
    return version.reference


def _store_examples(worker: Worker, folder: Path) -> list[dict[str, Any]] | None:
    """The examples with the hashes of their pictures; None for a job that keeps none."""
    listing = folder / "examples.json"
    if not listing.exists():
        return None
    examples: list[dict[str, Any]] = json.loads(listing.read_text(encoding="utf-8"))
    for position, example in enumerate(examples):
        for part in PICTURES:
            example[part] = worker.storage.put_file(folder / "examples" / f"{position}-{part}.png").sha256
    return examples


def _store_evidence(worker: Worker, claim: Claim, folder: Path) -> str | None:
    """The hash of what a shard saw, which waits in its evaluation's storage to be merged; None for another job."""
    path = folder / "evidence.safetensors"
    if claim.parent_id is None or not path.exists():
        return None
    return worker.evidence_of(claim.parent_id).put_file(path).sha256


def _advance(session: Session, claim: Claim) -> list[Job]:
    return [] if claim.parent_id is None else parents.advance(session, claim.parent_id)


def _commit(worker: Worker, claim: Claim, write: Callable[[Session], list[Job] | None]) -> bool:
    """Run ``write`` in a transaction, patiently: hours of work hang on it. Then tell the workers of the jobs it made.

    False, and nothing changed, if the claim is lost.
    """
    waiting = _patiently(worker, write)
    if waiting is None:
        log.warning("job %s: another worker has it; what attempt %d made is dropped", claim.job_id, claim.attempt)
        return False
    for job in waiting:
        if job.queue is not None and not publish(worker.celery, job.id, queue=job.queue):
            break  # the broker is down: the reaper will find the others as well
    return True


def _patiently(worker: Worker, write: Callable[[Session], T]) -> T:
    """Try again while the database is away; a deadlock or a lock that timed out is worth another try, too."""
    for retry in range(RETRIES):
        try:
            with worker.database.writing() as session:
                return write(session)
        except OperationalError as error:
            log.warning("the database refused (%s); try %d of %d", error.orig, retry + 1, RETRIES)
            worker.stopping.wait(worker.settings.heartbeat_seconds)
    with worker.database.writing() as session:
        return write(session)
