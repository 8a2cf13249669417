"""Retention: removes what is old and what nobody needs; never what a row names.

Rows go first and in a transaction of their own; then the bytes that no row names any more, by
:func:`app.services.artifacts.delete_unused`. A prune that is killed in between leaves waste, which ``unreferenced``
finds, and no row without its bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from app.records import Checkpoint, IdempotencyKey, Job, utc_now
from app.records.session import Database
from app.services import artifacts, references
from app.services.submission import MERGE, SHARD
from app.services.views import timestamp
from app.storage import Storage

SAFETY_AGE = timedelta(hours=24)
"""Bytes that no row names may be about to be named: the job or request that stored them has this long."""
BATCH = 200


@dataclass
class Pruned:
    """What was removed, or would be: ``jobs`` that lost something, files, and their bytes; or ``rows``."""

    jobs: int = 0
    files: int = 0
    bytes: int = 0
    rows: int = 0


class Pruner:
    """Removes from ``database`` and ``storage``; with ``dry_run`` it only counts."""

    def __init__(self, database: Database, storage: Storage, *, dry_run: bool = False) -> None:
        self._database = database
        self._storage = storage
        self._dry_run = dry_run

    def checkpoints(self, *, older_than: timedelta) -> Pruned:
        """Of jobs that failed or were cancelled longer ago: a resume then begins at zero.

        The evidence of such an evaluation's shards goes as well: its last step then computes them again.
        """
        has_checkpoints = exists().where(Checkpoint.job_id == Job.id)
        shard = aliased(Job)
        has_shards = exists().where(shard.parent_id == Job.id, shard.kind == SHARD, shard.result.is_not(None))
        needed = (Job.status.in_(("failed", "cancelled")), or_(has_checkpoints, has_shards))
        return self._of_jobs(
            needed,
            before=utc_now() - older_than,
            folders=_resumed_from,
            forget=_forget_checkpoints,
        )

    def examples(self, *, older_than: timedelta) -> Pruned:
        """Pictures and pixels of evaluations that ended longer ago; their figures stay."""
        return self._of_jobs(
            (Job.status == "succeeded", Job.kind != MERGE, Job.examples.is_not(None)),
            before=utc_now() - older_than,
            folders=lambda job: (references.examples_of(job.id, kind=job.kind, parent_id=job.parent_id),),
            forget=_forget_examples,
        )

    def idempotency_keys(self, *, older_than: timedelta) -> Pruned:
        """A request that repeats such a key is done again."""
        old = IdempotencyKey.created_at < utc_now() - older_than
        with self._database.writing() as session:
            if self._dry_run:
                count = session.scalar(select(func.count()).select_from(IdempotencyKey).where(old)) or 0
            else:
                gone = session.scalars(delete(IdempotencyKey).where(old).returning(IdempotencyKey.key))
                count = sum(1 for _ in gone)
        return Pruned(rows=count)

    def unreferenced(self, *, older_than: timedelta = SAFETY_AGE) -> Pruned:
        """What no row names: refused uploads, attempts that lost their job, writers that were killed."""
        before = (utc_now() - older_than).timestamp()
        pruned = Pruned()
        for shelf in self._storage.shelves():
            self._sweep("", prefix=shelf, before=before, pruned=pruned)
        for kind in (references.CHECKPOINTS, references.EVIDENCE, references.EXAMPLES):
            for owner in self._storage.scopes(kind):
                pruned.jobs += self._sweep(f"{kind}/{owner}", before=before, pruned=pruned)
        return pruned

    def _of_jobs(
        self,
        needed: tuple[Any, ...],
        *,
        before: datetime,
        folders: Callable[[Job], tuple[str, ...]],
        forget: Callable[[Session, Job], None],
    ) -> Pruned:
        pruned = Pruned()
        for job_id in self._job_ids((*needed, Job.finished_at < before)):
            with self._database.writing() as session:
                query = select(Job).where(Job.id == job_id, *needed, Job.finished_at < before)
                job = session.scalars(query.with_for_update()).first()
                if job is None:
                    continue  # resumed in the meantime
                if not self._dry_run:
                    forget(session, job)
            swept = [self._sweep(folder, pruned=pruned, forgotten=True) for folder in folders(job)]
            pruned.jobs += any(swept)
        return pruned

    def _job_ids(self, condition: tuple[Any, ...]) -> Iterator[str]:
        """Ids of the jobs, read in batches and in no transaction while the caller works."""
        last = ""
        while True:
            query = select(Job.id).where(*condition, Job.id > last).order_by(Job.id).limit(BATCH)
            with self._database.session() as session:
                ids = list(session.scalars(query))
            yield from ids
            if len(ids) < BATCH:
                return
            last = ids[-1]

    def _sweep(
        self,
        folder: str,
        *,
        pruned: Pruned,
        prefix: str = "",
        before: float = math.inf,
        forgotten: bool = False,
    ) -> bool:
        """Delete what lies in ``folder``, was written ``before``, and is named by no row; whether there was any.

        ``forgotten``: its rows have been deleted, or would have been were this no dry run.
        """
        found = artifacts.place(self._storage, folder).find(prefix)
        sizes = {file.name: file.size for file in found if file.modified < before}
        names = list(sizes)
        if not self._dry_run:
            names = artifacts.delete_unused(self._database, self._storage, folder, names=names)
        elif not forgotten:
            names = self._unused(folder, names)
        pruned.files += len(names)
        pruned.bytes += sum(sizes[name] for name in names)
        return bool(names)

    def _unused(self, folder: str, names: Sequence[str]) -> list[str]:
        with self._database.session() as session:
            used = {
                name
                for start in range(0, len(names), BATCH)
                for name in references.used(session, folder, names[start : start + BATCH])
            }
        return [name for name in names if name not in used]


def _resumed_from(job: Job) -> tuple[str, ...]:
    """Folders of what a resume goes on from."""
    return (references.checkpoints_of(job.id) if job.queue is not None else references.evidence_of(job.id),)


def _forget_checkpoints(session: Session, job: Job) -> None:
    session.execute(delete(Checkpoint).where(Checkpoint.job_id == job.id))
    for shard in session.scalars(
        select(Job).where(Job.parent_id == job.id, Job.kind == SHARD, Job.result.is_not(None))
    ):
        shard.result = {**(shard.result or {}), "evidence": None}


def _forget_examples(session: Session, job: Job) -> None:
    if job.examples:
        job.result = {**(job.result or {}), "examples_file": None, "examples_pruned_at": timestamp(utc_now())}
    job.examples = None
    for merge in session.scalars(select(Job).where(Job.parent_id == job.id, Job.kind == MERGE)):
        _forget_examples(session, merge)
