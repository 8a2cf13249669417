"""Protocol jobs: train or pretrain and probe each method, then attack every classifier; the result compares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.orm import Session

from app.records import Job
from app.services import compare, datasets, plan, specs
from app.services.parent_kind import ChildState, Finished, ParentKind, Resolved, Step
from app.services.presets import ProtocolParams
from app.services.tokens import OPERATOR


def _plan(session: Session, parent: Job) -> list[plan.Step]:
    params = ProtocolParams.model_validate(parent.spec)
    return plan.steps(params, datasets.find(session, params.dataset.name))


def _steps(session: Session, parent: Job) -> list[Step]:
    def child(step: plan.Step) -> Step:
        def resolve(session: Session, finished: Finished) -> Resolved:
            references = {key: str(job.result["model"]) for key, job in finished.items() if job.result}
            spec, register_as, _ = specs.validate(
                session, kind=step.kind, body=step.body(references), asking=replace(OPERATOR, account=parent.account)
            )
            return Resolved(spec, register_as)

        return Step(step.key, step.kind, () if step.needs is None else (step.needs,), resolve)

    return [child(step) for step in _plan(session, parent)]


def _conclude(session: Session, parent: Job, finished: Finished) -> None:
    parent.result = compare.protocol_result(_plan(session, parent), finished, seed=parent.spec["seed"])


def _progress(children: Sequence[ChildState], total: int) -> dict[str, Any]:
    running = [child.step for child in children if child.status == "running"]
    waiting = [child.step for child in children if child.status == "queued"]
    return {
        "done": sum(child.status == "succeeded" for child in children),
        "total": total,
        "unit": "step",
        "stage": next(iter(running or waiting), "steps"),
        "eta_seconds": None,
    }


def _always(session: Session, spec: Mapping[str, Any]) -> bool:
    return True


PROTOCOL = ParentKind(
    divides=_always,
    total=lambda session, parent: len(_plan(session, parent)),
    steps=_steps,
    conclude=_conclude,
    progress=_progress,
)
