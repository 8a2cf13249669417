"""Brings to this machine what a job's child needs: weights, the data set's upload, the checkpoint to go on from."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.errors import NotFoundError
from app.services import claims, datasets, models
from app.services.claims import Claim
from app.storage import CorruptArtifactError, Storage
from worker.context import Worker

log = logging.getLogger(__name__)

MODEL_FIELDS = ("model", "init", "base_model")


def prepare(worker: Worker, claim: Claim, *, folder: Path) -> dict[str, Any]:
    """The child's task: the spec, and local paths of everything that it names. Raises DomainError, OSError."""
    settings = worker.settings
    return {
        "kind": claim.kind,
        "spec": dict(claim.spec),
        "folder": str(folder),
        "data_root": str(settings.data_cache),
        "device": settings.device,
        "threads": settings.torch_threads,
        "checkpoint_seconds": settings.checkpoint_seconds,
        "models": _fetch_models(worker, claim.spec, folder=folder),
        "upload": _fetch_upload(worker, claim.spec["dataset"]["name"]),
        "resume": _fetch_checkpoint(worker, claim, folder=folder),
    }


def _fetch_models(worker: Worker, spec: Mapping[str, Any], *, folder: Path) -> dict[str, dict[str, Any]]:
    """Field of the spec → reference, path of the weights, and card, for each model that the spec names."""
    with worker.database.session() as session:
        versions = {field: models.resolve(session, spec[field]) for field in MODEL_FIELDS if spec.get(field)}
    return {
        field: {
            "reference": version.reference,
            "path": str(worker.storage.fetch(version.sha256, folder / f"{field}.safetensors")),
            "card": version.card,
        }
        for field, version in versions.items()
    }


def _fetch_upload(worker: Worker, name: str) -> str | None:
    """The local copy of an uploaded data set, fetched once; None for a built-in one."""
    with worker.database.session() as session:
        record = datasets.stored(session, name)
    if record is None:
        return None
    path = worker.settings.data_cache / "uploads" / record.sha256
    if not (path.is_file() and _sha256(path) == record.sha256):
        worker.storage.fetch(record.sha256, path)
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
