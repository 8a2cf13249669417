"""What workers and the API leave behind, made without them: models, checkpoints, examples, evidence."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from app.records import Job, utc_now
from app.records.session import Database
from app.services import artifacts, claims, datasets, jobs, models, parents, references
from app.services.artifacts import Deposit
from app.services.claims import Claim
from app.services.prune import Pruner
from app.services.references import Reference
from app.storage import Storage
from models.data.spec import DATASETS

EVALUATION: dict[str, Any] = {
    "model": "net@1",
    "dataset": {"name": "digits", "subset": None, "split": "test", "seed": 0},
    "attacks": [{"name": "fgsm", "eps": 0.1}],
}


@dataclass
class House:
    """A database and a storage, and hands that do what workers and clients do."""

    database: Database
    storage: Storage
    folder: Path
    numbers: Any = field(default_factory=itertools.count)

    def pruner(self, **options: Any) -> Pruner:
        return Pruner(self.database, self.storage, **options)

    def file(self, data: bytes) -> Path:
        path = self.folder / f"file-{next(self.numbers)}"
        path.write_bytes(data)
        return path

    def register(self, name: str, data: bytes) -> str:
        deposit = Deposit(self.storage)
        artifact = deposit.put(self.file(data))
        with self.database.writing() as session:
            deposit.secure(session)
            models.register_version(session, name=name, sha256=artifact.sha256, size=artifact.size, card={})
        return artifact.sha256

    def upload(self, name: str, data: bytes) -> str:
        deposit = Deposit(self.storage)
        artifact = deposit.put(self.file(data))
        rest: dict[str, Any] = {"format": "npz", "classes": [], "image_shape": [1, 8, 8], "mean": [], "std": []}
        with self.database.writing() as session:
            deposit.secure(session)
            datasets.register(
                session, name=name, sha256=artifact.sha256, size=artifact.size, train_size=1, test_size=1, **rest
            )
        return artifact.sha256

    def delete_model(self, name: str) -> None:
        with self.database.writing() as session:
            hashes = models.delete_model(session, name)
        artifacts.delete_unused(self.database, self.storage, "", names=hashes)

    def submit(self, kind: str = "train", spec: Any = None) -> str:
        with self.database.writing() as session:
            return jobs.submit(session, kind=kind, spec=spec or {"method": "standard"}).id

    def claim(self, job_id: str) -> Claim:
        with self.database.writing() as session:
            claim = claims.claim(session, job_id, owner="w", lease_seconds=60, max_attempts=3)
        assert claim is not None
        return claim

    def checkpoint(self, claim: Claim, data: bytes, *, step: int = 1) -> str:
        folder = references.checkpoints_of(claim.job_id)
        deposit = Deposit(self.storage)
        artifact = deposit.put(self.file(data), folder=folder)
        with self.database.writing() as session:
            deposit.secure(session)
            old = claims.record_checkpoint(session, claim, sha256=artifact.sha256, size=artifact.size, step=step)
        artifacts.delete_unused(self.database, self.storage, folder, names=old or [])
        return artifact.sha256

    def end(self, claim: Claim, status: str = "succeeded", **outcome: Any) -> None:
        with self.database.writing() as session:
            assert claims.finish(session, claim, status=status, **outcome)
            if claim.parent_id is not None:
                parents.advance(session, claim.parent_id)

    def evaluated(self, claim: Claim, data: bytes) -> list[str]:
        """End an evaluation, or its last step, with one example; the hashes of its four files."""
        folder = references.examples_of(claim.job_id, kind=claim.kind, parent_id=claim.parent_id)
        deposit = Deposit(self.storage)
        parts = ("clean", "adversarial", "difference", "pixels")
        kept = {part: deposit.put(self.file(part.encode() + data), folder=folder) for part in parts}
        pixels = kept.pop("pixels")
        example = {"index": 0, **{part: artifact.sha256 for part, artifact in kept.items()}}
        with self.database.writing() as session:
            deposit.secure(session)
            result = {"clean_accuracy": 0.5, "examples_file": {"sha256": pixels.sha256, "size": pixels.size}}
            assert claims.finish(session, claim, status="succeeded", result=result, examples=[example])
            if claim.parent_id is not None:
                parents.advance(session, claim.parent_id)
        return [example["clean"], example["adversarial"], example["difference"], pixels.sha256]

    def sharded(self) -> tuple[str, list[Claim]]:
        """A large evaluation, and claims on its shards."""
        parent = self.submit("evaluate", {**EVALUATION, "shard_size": (DATASETS["digits"].test_size + 1) // 2})
        with self.database.session() as session:
            shards = list(session.scalars(select(Job.id).where(Job.parent_id == parent).order_by(Job.id)))
        return parent, [self.claim(shard) for shard in shards]

    def see(self, claim: Claim, data: bytes) -> str:
        """End a shard with evidence."""
        assert claim.parent_id is not None
        deposit = Deposit(self.storage)
        artifact = deposit.put(self.file(data), folder=references.evidence_of(claim.parent_id))
        with self.database.writing() as session:
            deposit.secure(session)
            assert claims.finish(session, claim, status="succeeded", result={"evidence": artifact.sha256})
            parents.advance(session, claim.parent_id)
        return artifact.sha256

    def age(self, job_id: str, **ago: float) -> None:
        """Let the job have ended so long ago."""
        with self.database.writing() as session:
            jobs.get(session, job_id).finished_at = utc_now() - timedelta(**ago)

    def named(self) -> set[Reference]:
        with self.database.session() as session:
            return set(references.every(session))

    def missing(self) -> set[Reference]:
        """What rows name and the storage does not hold."""
        return {found for found in self.named() if not artifacts.place(self.storage, found.folder).exists(found.sha256)}
