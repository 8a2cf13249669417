"""What must be true after a soak, whatever was killed in it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select

from app.records import Checkpoint, Job, ModelVersion
from tests.deployment import Deployment
from tests.soak.kills import Kill
from tests.soak.workload import Submitted
from tests.system.classifiers import verdicts

UNSTABLE = ("model", "attack_share")
"""Of a result: names that differ from job to job, and times beside those that :func:`verdicts` leaves out."""


def essence(deployment: Deployment, job_id: str) -> dict[str, Any]:
    """What of a finished job must not depend on its way: weights, verdicts, figures; those of its steps, too."""
    with deployment.database.session() as session:
        job = session.get_one(Job, job_id)
        weights = session.scalars(select(ModelVersion.sha256).where(ModelVersion.job_id == job_id)).first()
        steps = session.execute(select(Job.step_key, Job.id).where(Job.parent_id == job_id)).all()
    if weights is not None:
        with deployment.storage.open(weights) as file:
            assert hashlib.sha256(file.read()).hexdigest() == weights, f"the weights of job {job_id} are damaged"
    result = {} if job.kind == "protocol" else verdicts(job.result)
    return {
        "status": job.status,
        "weights": weights,
        "result": {name: value for name, value in result.items() if name not in UNSTABLE},
        # The shards' own results are evidence, which their evaluation's result is made of.
        "steps": {key: essence(deployment, child) for key, child in steps} if job.kind == "protocol" else {},
    }


def faults(
    deployment: Deployment, submitted: Sequence[Submitted], expected: Mapping[str, Any], kills: Sequence[Kill]
) -> list[str]:
    """Everything that is not as it must be, in words."""
    wrong = []
    for job in submitted:
        found = essence(deployment, job.id)
        if found != expected[job.name]:
            wrong.append(f"job {job.id} ({job.name}) differs from an unbroken run: {found} != {expected[job.name]}")
    return wrong + _rows(deployment, submitted) + _attempts(deployment, kills)


def _rows(deployment: Deployment, submitted: Sequence[Submitted]) -> list[str]:
    wrong = []
    with deployment.database.session() as session:
        posted = session.scalar(select(func.count()).select_from(Job).where(Job.parent_id.is_(None)))
        held = session.scalars(select(Job.id).where(Job.owner.is_not(None) | Job.lease_until.is_not(None))).all()
        unfinished = session.execute(select(Job.id, Job.status).where(Job.status != "succeeded")).all()
        versions = Counter(session.scalars(select(ModelVersion.job_id)))
        numbers = set(session.scalars(select(ModelVersion.version)))
        kept = session.scalar(select(func.count()).select_from(Checkpoint))
    if posted != len(submitted):
        wrong.append(f"{len(submitted)} jobs were submitted and {posted} made")
    wrong += [f"job {job_id} is {status}" for job_id, status in unfinished]
    wrong += [f"job {job_id} is held by a worker" for job_id in held]
    wrong += [f"job {job_id} registered {count} versions" for job_id, count in versions.items() if count > 1]
    if numbers != {1}:
        wrong.append(f"names that one job has registered under have the versions {numbers}")
    if kept:
        wrong.append(f"{kept} checkpoints are kept of jobs that have succeeded")
    return wrong


def _attempts(deployment: Deployment, kills: Sequence[Kill]) -> list[str]:
    """An attempt that a kill has ended was followed by another."""
    with deployment.database.session() as session:
        attempts = {job.id: job.attempt for job in session.execute(select(Job.id, Job.attempt))}
    ended = {(kill.job, kill.attempt) for kill in kills if kill.job is not None}
    need = Counter(job_id for job_id, _ in ended)
    return [
        f"job {job_id} has {attempts[str(job_id)]} attempts, and {count} were killed"
        for job_id, count in need.items()
        if attempts[str(job_id)] < count
    ]


def left_files(deployment: Deployment) -> list[str]:
    """Files that nobody needs any more, once the workers have stopped."""
    home = deployment.settings.home
    left = [path for kept in ("storage/checkpoints", "storage/evidence", "work") for path in home.glob(f"{kept}/*")]
    return [f"{path.relative_to(home)} is left" for path in left]
