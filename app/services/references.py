"""Which artifacts the database names: the one place that knows every column with a hash in it.

An artifact lies in a folder of the storage: ``""`` for what rows share (weights, uploads), and one below
``checkpoints``, ``evidence`` or ``examples`` for what belongs to one job.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session, aliased

from app.records import Checkpoint, Job, ModelVersion, StoredDataset
from app.services.submission import MERGE, SHARD

CHECKPOINTS, EVIDENCE, EXAMPLES = "checkpoints", "evidence", "examples"
PICTURES = ("clean", "adversarial", "difference")
BATCH = 500


class Reference(NamedTuple):
    """A row needs the artifact ``sha256`` in ``folder``."""

    folder: str
    sha256: str


def checkpoints_of(job_id: str) -> str:
    """Folder of a job's resume checkpoints."""
    return f"{CHECKPOINTS}/{job_id}"


def evidence_of(evaluation_id: str) -> str:
    """Folder of what the shards of an evaluation saw; needed until they are merged."""
    return f"{EVIDENCE}/{evaluation_id}"


def examples_of(job_id: str, *, kind: str, parent_id: str | None) -> str:
    """Folder of a job's examples; a large evaluation has those that its last step made."""
    return f"{EXAMPLES}/{parent_id if kind == MERGE else job_id}"


def evidence_by_shard(session: Session, evaluation_id: str) -> list[str | None]:
    """Hashes of the evidence that the shards of an evaluation left, by index; None for a shard that left nothing."""
    query = select(Job.spec, Job.result).where(Job.parent_id == evaluation_id, Job.kind == SHARD)
    found = {spec["shard"]["index"]: (result or {}).get("evidence") for spec, result in session.execute(query)}
    return [found[index] for index in sorted(found)]


def every(session: Session) -> Iterator[Reference]:
    """All references, streamed in batches; one that several rows share comes several times."""
    yield from _shared(session)
    yield from _checkpoints(session)
    yield from _evidence(session)
    yield from _examples(session)


def used(session: Session, folder: str, names: Sequence[str]) -> set[str]:
    """Those of ``names`` that a row needs in ``folder``."""
    kind, _, owner = folder.partition("/")
    if kind == "":
        found = _shared(session, names)
    elif kind == CHECKPOINTS:
        found = _checkpoints(session, owner)
    elif kind == EVIDENCE:
        found = _evidence(session, owner)
    else:
        found = _examples(session, owner)
    return {reference.sha256 for reference in found}.intersection(names)


def _shared(session: Session, names: Sequence[str] | None = None) -> Iterator[Reference]:
    for column in (ModelVersion.sha256, StoredDataset.sha256):
        query = select(column) if names is None else select(column).where(column.in_(names))
        for sha256 in session.scalars(query.execution_options(yield_per=BATCH)):
            yield Reference("", sha256)


def _checkpoints(session: Session, job_id: str | None = None) -> Iterator[Reference]:
    query = select(Checkpoint.job_id, Checkpoint.sha256)
    if job_id is not None:
        query = query.where(Checkpoint.job_id == job_id)
    for owner, sha256 in session.execute(query.execution_options(yield_per=BATCH)):
        yield Reference(checkpoints_of(owner), sha256)


def _evidence(session: Session, evaluation_id: str | None = None) -> Iterator[Reference]:
    """Needed until the evaluation has succeeded; the shards' results name it for longer."""
    evaluation = aliased(Job)
    query = (
        select(Job.parent_id, Job.result)
        .join(evaluation, Job.parent_id == evaluation.id)
        .where(Job.kind == SHARD, Job.result.is_not(None), evaluation.status != "succeeded")
    )
    if evaluation_id is not None:
        query = query.where(Job.parent_id == evaluation_id)
    for owner, result in session.execute(query.execution_options(yield_per=BATCH)):
        if result.get("evidence"):
            yield Reference(evidence_of(owner), result["evidence"])


def _examples(session: Session, owner: str | None = None) -> Iterator[Reference]:
    query = select(Job.id, Job.kind, Job.parent_id, Job.examples, Job.result).where(Job.examples.is_not(None))
    if owner is not None:
        query = query.where(or_(Job.id == owner, and_(Job.parent_id == owner, Job.kind == MERGE)))
    for job_id, kind, parent_id, examples, result in session.execute(query.execution_options(yield_per=BATCH)):
        folder = examples_of(job_id, kind=kind, parent_id=parent_id)
        for example in examples:
            yield from (Reference(folder, example[part]) for part in PICTURES)
        pixels = (result or {}).get("examples_file")
        if pixels:
            yield Reference(folder, pixels["sha256"])
