"""Writes how an attempt ended, in one fenced transaction: job finished, model registered, parent advanced."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.file_systems import StorageError
from app.queue import publish
from app.records import Job
from app.services import claims, models, parents, references
from app.services.artifacts import Deposit
from app.services.claims import Claim
from app.services.submission import MERGE
from app.storage import Artifact, Storage
from worker.context import Worker
from worker.patience import patiently

log = logging.getLogger(__name__)


def succeed(worker: Worker, claim: Claim, *, folder: Path) -> None:
    """Keep what the child left in ``folder``, and finish the job as succeeded."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    kept = patiently(worker, lambda: _keep(worker, claim, folder=folder))

    def write(session: Session) -> list[Job] | None:
        kept.deposit.secure(session)
        if not claims.holds(session, claim):
            return [] if claims.succeeded(session, claim) else None
        final = dict(result)
        if kept.weights is not None:
            card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
            final["model"] = _register(session, claim, kept.weights, card=card, result=result)
        if kept.evidence is not None:
            final["evidence"] = kept.evidence.sha256
        if kept.examples is not None:
            final["examples"] = f"/jobs/{claim.job_id}/examples"
        if kept.pixels is not None:
            final["examples_file"] = {"sha256": kept.pixels.sha256, "size": kept.pixels.size}
        claims.finish(session, claim, status="succeeded", result=final, examples=kept.examples)
        return _advance(session, claim)

    if _commit(worker, claim, write):
        _clear(worker.checkpoints_of(claim.job_id))
        if claim.kind == MERGE and claim.parent_id is not None:
            _clear(worker.evidence_of(claim.parent_id))


def end(worker: Worker, claim: Claim, *, status: str, error: Mapping[str, Any] | None = None) -> None:
    """Finish the job as failed or cancelled; it keeps its checkpoints, to be resumed from."""

    def write(session: Session) -> list[Job] | None:
        if not claims.finish(session, claim, status=status, error=error):
            return None
        return _advance(session, claim)

    _commit(worker, claim, write)


def give_back(worker: Worker, claim: Claim, *, failure: str | None = None) -> None:
    """Queue the job again for the next worker to go on with, or end it: it died too often, or is to be cancelled."""

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


@dataclass
class _Kept:
    """What a job's child left, in the storage."""

    deposit: Deposit
    weights: Artifact | None = None
    evidence: Artifact | None = None
    """What a shard saw, which waits in its evaluation's folder to be merged."""
    pixels: Artifact | None = None
    examples: list[dict[str, Any]] | None = None
    """The examples with the hashes of their pictures; None for a job that keeps none."""


def _keep(worker: Worker, claim: Claim, *, folder: Path) -> _Kept:
    deposit = Deposit(worker.storage)
    kept = _Kept(deposit)
    weights, evidence, listing = (
        folder / name for name in ("weights.safetensors", "evidence.safetensors", "examples.json")
    )
    if weights.exists():
        kept.weights = deposit.put(weights)
    if evidence.exists() and claim.parent_id is not None:
        kept.evidence = deposit.put(evidence, folder=references.evidence_of(claim.parent_id))
    if listing.exists():
        place = references.examples_of(claim.job_id, kind=claim.kind, parent_id=claim.parent_id)
        kept.examples = json.loads(listing.read_text(encoding="utf-8"))
        for position, example in enumerate(kept.examples or []):
            for part in references.PICTURES:
                picture = folder / "examples" / f"{position}-{part}.png"
                example[part] = deposit.put(picture, folder=place).sha256
        if kept.examples:
            kept.pixels = deposit.put(folder / "examples.safetensors", folder=place)
    return kept


def _clear(storage: Storage) -> None:
    """Remove what a finished job needs no more; what stays because the storage is away is pruned later."""
    try:
        storage.clear()
    except StorageError as error:
        log.warning("%s could not be removed: %s", storage.url, error)


def _advance(session: Session, claim: Claim) -> list[Job]:
    return [] if claim.parent_id is None else parents.advance(session, claim.parent_id)


def _commit(worker: Worker, claim: Claim, write: Callable[[Session], list[Job] | None]) -> bool:
    """Run ``write`` in a transaction, patiently: hours of work hang on it. Then tell the workers of the jobs it made.

    False, and nothing changed, if the claim is lost.
    """

    def transaction() -> list[Job] | None:
        with worker.database.writing() as session:
            return write(session)

    waiting = patiently(worker, transaction)
    if waiting is None:
        log.warning("job %s: another worker has it; what attempt %d made is dropped", claim.job_id, claim.attempt)
        return False
    for job in waiting:
        if job.queue is not None and not publish(worker.celery, job.id, queue=job.queue):
            break  # the broker is down: the reaper will find the others as well
    return True
