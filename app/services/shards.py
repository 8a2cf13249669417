"""Large evaluations: shards that any number of workers take, and a last step that merges what they saw.

The spec of a shard is its evaluation's with ``shard`` beside it, that of ``merge`` is the evaluation's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.records import Job
from app.services import datasets
from app.services.parent_kind import ChildState, Finished, ParentKind, Resolved, Step
from app.services.submission import MERGE, SHARD
from models.evaluation_progress import UNIT, total_steps
from models.evaluation_shards import shard_count
from models.evaluation_spec import EvaluationParams


def _images(session: Session, spec: Mapping[str, Any]) -> int:
    chosen = spec["dataset"]
    if chosen["subset"] is not None:
        return int(chosen["subset"])
    data = datasets.find(session, chosen["name"])
    return data.test_size if chosen["split"] == "test" else data.train_size


def _count(session: Session, spec: Mapping[str, Any]) -> int:
    size = spec.get("shard_size")
    return 1 if size is None else shard_count(_images(session, spec), size)


def _divides(session: Session, spec: Mapping[str, Any]) -> bool:
    return _count(session, spec) > 1


def _total(session: Session, parent: Job) -> int:
    return total_steps(EvaluationParams.model_validate(parent.spec), images=_images(session, parent.spec))


def _steps(session: Session, parent: Job) -> list[Step]:
    of = _count(session, parent.spec)

    def shard(index: int) -> Step:
        spec = {**parent.spec, "shard": {"index": index, "of": of}}
        return Step(f"{SHARD}:{index}", SHARD, (), lambda session, finished: Resolved(spec))

    shards = [shard(index) for index in range(of)]
    needs = tuple(step.key for step in shards)
    return [*shards, Step(MERGE, MERGE, needs, lambda session, finished: Resolved(parent.spec))]


def _conclude(session: Session, parent: Job, finished: Finished) -> None:
    merged = finished[MERGE]
    parent.result = {**(merged.result or {}), "examples": f"/jobs/{parent.id}/examples"}
    parent.examples = merged.examples


def _progress(children: Sequence[ChildState], total: int) -> dict[str, Any]:
    """What the shards have done together, and the time left at the speed of those that run now."""
    shards = [child for child in children if child.kind == SHARD]
    share = total / len(shards)
    done = (
        total if all(child.status == "succeeded" for child in shards) else sum(_done(child, share) for child in shards)
    )
    running = [child for child in children if child.status == "running"]
    stages = [child.progress["stage"] for child in running if child.progress]
    merging = any(child.kind == MERGE for child in children)
    return {
        "done": min(round(done), total),
        "total": total,
        "unit": UNIT,
        "stage": MERGE if merging else next(iter(stages), "starting" if running else "queued"),
        "eta_seconds": _eta(shards, left=total - done, share=share),
    }


def _done(shard: ChildState, share: float) -> float:
    """Steps of a shard; one that waits to go on from its checkpoint tells of them once it runs again."""
    if shard.status == "succeeded":
        return share
    return float(shard.progress["done"]) if shard.status == "running" and _attacks(shard) and shard.progress else 0.0


def _attacks(shard: ChildState) -> bool:
    """Whether it reports the evaluation's own steps: before, it may report bytes of a download."""
    return shard.progress is not None and shard.progress["unit"] == UNIT


def _eta(shards: Sequence[ChildState], *, left: float, share: float) -> float | None:
    """Seconds left if as many shards run as do now; None until one of them has told its speed, or has ended."""
    if left <= 0:
        return 0.0
    running = [shard for shard in shards if shard.status == "running"]
    reports = [shard.progress for shard in running if _attacks(shard) and shard.progress]
    told = [report for report in reports if report.get("eta_seconds")]
    speeds: list[float] = [(report["total"] - report["done"]) / report["eta_seconds"] for report in told] or [
        share / seconds for shard in shards if (seconds := _seconds(shard)) > 0
    ]
    if not speeds or not sum(speeds):
        return None
    together = sum(speeds) / len(speeds) * max(1, len(running))
    longest = max((float(report["eta_seconds"]) for report in told), default=0.0)
    return round(max(left / together, longest), 1)


def _seconds(shard: ChildState) -> float:
    """How long a finished shard took, its start included."""
    if shard.status != "succeeded" or shard.started_at is None or shard.finished_at is None:
        return 0.0
    return (shard.finished_at - shard.started_at).total_seconds()


SHARDED = ParentKind(divides=_divides, total=_total, steps=_steps, conclude=_conclude, progress=_progress)
