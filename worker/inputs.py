"""Brings to this machine what a job's child needs: weights, the data set's upload, the checkpoint to go on from."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.errors import DomainError, NotFoundError
from app.folders import work_folder
from app.records import ModelVersion, StoredDataset
from app.services import claims, models, references
from app.services.claims import Claim
from app.services.submission import MERGE
from app.storage import CorruptArtifactError, Storage
from worker.context import Worker

log = logging.getLogger(__name__)


class DeletedInputError(DomainError):
    """The registry does not know a model that the job needs any more: no other attempt would find it.

    Bytes that the storage has lost are another thing: it may have them again, or another worker may see them.
    """


def prepare(worker: Worker, claim: Claim, *, folder: Path) -> dict[str, Any]:
    """The child's task: the spec, and local paths of everything that it names.

    Raises :class:`DeletedInputError`, which is for good, and other DomainErrors and OSErrors.
    """
    settings = worker.settings
    return {
        "kind": claim.kind,
        "spec": dict(claim.spec),
        "folder": str(folder),
        "data_root": str(settings.data_cache),
        "device": settings.device,
        "threads": settings.threads,
        "checkpoint_seconds": settings.checkpoint_seconds,
        "memory_bytes": settings.job_memory_bytes,
        "models": _fetch_models(worker, claim, folder=folder),
        "upload": _fetch_upload(worker, claim.spec["dataset"]["name"]),
        "resume": _fetch_checkpoint(worker, claim, folder=folder),
        "evidence": _fetch_evidence(worker, claim, folder=folder),
    }


def _fetch_models(worker: Worker, claim: Claim, *, folder: Path) -> dict[str, dict[str, Any]]:
    """Path in the spec → reference, path of the weights, and card, for each model that the spec names."""
    with worker.database.session() as session:
        named = models.references(claim.spec)
        versions = {field: _registered(session, reference) for field, reference in named.items()}
    weights = {
        sha256: str(worker.storage.fetch(sha256, folder / f"{sha256}.safetensors"))
        for sha256 in {version.sha256 for version in versions.values()}
    }
    return {
        field: {"reference": version.reference, "path": weights[version.sha256], "card": version.card}
        for field, version in versions.items()
    }


def _registered(session: Session, reference: str) -> ModelVersion:
    try:
        return models.resolve(session, reference)
    except NotFoundError as error:
        raise DeletedInputError(f"the model {reference}, which the job needs, was deleted") from error


def _fetch_upload(worker: Worker, name: str) -> str | None:
    """The local copy of an uploaded data set, fetched once; None for a built-in one."""
    with worker.database.session() as session:
        record = session.get(StoredDataset, name)
    if record is None:
        return None
    path = worker.settings.data_cache / "uploads" / record.sha256
    if not (path.is_file() and _sha256(path) == record.sha256):
        with work_folder(worker.settings.arriving_dir, record.sha256) as folder:
            path.parent.mkdir(parents=True, exist_ok=True)
            worker.storage.fetch(record.sha256, folder / "upload").replace(path)
    return str(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_checkpoint(worker: Worker, claim: Claim, *, folder: Path) -> str | None:
    """The newest checkpoint whose bytes are right; damaged ones are forgotten."""
    storage: Storage = worker.checkpoints_of(claim.job_id)
    with worker.database.session() as session:
        known = claims.checkpoints(session, claim.job_id)
    for checkpoint in known:
        try:
            return str(storage.fetch(checkpoint.sha256, folder / f"resume-from-{checkpoint.step}.pt"))
        except (CorruptArtifactError, NotFoundError) as error:
            log.warning("job %s: checkpoint of step %d: %s", claim.job_id, checkpoint.step, error.detail)
            with worker.database.writing() as session:
                claims.drop_checkpoint(session, claim, checkpoint.id)
    return None


def _fetch_evidence(worker: Worker, claim: Claim, *, folder: Path) -> list[str | None]:
    """What the shards of an evaluation saw, for the job that merges it, by index; None for one that got lost."""
    if claim.kind != MERGE or claim.parent_id is None:
        return []
    with worker.database.session() as session:
        known = references.evidence_by_shard(session, claim.parent_id)
    storage = worker.evidence_of(claim.parent_id)
    paths: list[str | None] = []
    for index, sha256 in enumerate(known):
        try:
            paths.append(str(storage.fetch(sha256 or "", folder / f"shard-{index}.safetensors")))
        except (CorruptArtifactError, NotFoundError) as error:
            log.warning("job %s: shard %d has to be computed again: %s", claim.job_id, index, error.detail)
            paths.append(None)
    return paths
