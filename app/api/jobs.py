"""Jobs: submit, list, read, cancel, resume."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response, status
from pydantic import Field
from sqlalchemy.orm import Session

from app.api.access import Asking, JobId
from app.api.dependencies import FIRST_PAGE, NO_NUL, Cursor, IdempotencyKey, JsonBody, Limit, Opened, Resources
from app.api.idempotency import once
from app.api.requests import StrictRoute
from app.errors import FieldError, InvalidSpecError
from app.queue import publish
from app.records import Job, JobKind, JobStatus
from app.schemas import examples
from app.schemas.jobs import (
    CorruptionsBody,
    EvaluateBody,
    Example,
    Examples,
    JobPage,
    JobView,
    MetricSeries,
    PretrainBody,
    ProbeBody,
    ProtocolBody,
    TrainBody,
)
from app.schemas.problems import problem_responses
from app.services import jobs, quotas, references, specs
from app.services.tokens import Principal

log = logging.getLogger(__name__)

router = APIRouter(tags=["jobs"], route_class=StrictRoute)

Points = Annotated[int | None, Query(ge=1, le=100_000, description="most points a series; null: all")]
Label = Annotated[str, Field(max_length=601, pattern=NO_NUL)]
Labels = Annotated[list[Label] | None, Query(max_length=20, description="key:value; repeated: all must match")]
_SUBMITTED: dict[str, Any] = {
    "status_code": status.HTTP_202_ACCEPTED,
    "response_model": JobView,
    "response_description": "The job, `queued`, or `running` where other jobs do its work; `Location` is its address.",
    "responses": problem_responses(400, 409, 413, 415, 422, 503),
}


@router.post("/jobs/pretrain", summary="Pretrain an encoder", **_SUBMITTED)
def pretrain(
    opened: Opened,
    asking: Asking,
    response: Response,
    *,
    body: Annotated[PretrainBody, Body(examples=[examples.PRETRAIN])],
    raw: JsonBody,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Pretraining without labels. `GET /methods` lists the methods and their parameters."""
    return _submit(opened, asking, response, kind="pretrain", path="/jobs/pretrain", body=raw, key=idempotency_key)


@router.post("/jobs/probe", summary="Put a classifier on an encoder", **_SUBMITTED)
def probe(
    opened: Opened,
    asking: Asking,
    response: Response,
    *,
    body: Annotated[ProbeBody, Body(examples=[examples.PROBE])],
    raw: JsonBody,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """The linear modes leave the backbone's weights and statistics bit for bit; `adversarial-full` trains all."""
    return _submit(opened, asking, response, kind="probe", path="/jobs/probe", body=raw, key=idempotency_key)


@router.post("/jobs/train", summary="Train a classifier", **_SUBMITTED)
def train(
    opened: Opened,
    asking: Asking,
    response: Response,
    *,
    body: Annotated[TrainBody, Body(examples=[examples.TRAIN])],
    raw: JsonBody,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Supervised training, plain or adversarial. `GET /methods` lists the methods and their parameters."""
    return _submit(opened, asking, response, kind="train", path="/jobs/train", body=raw, key=idempotency_key)


@router.post("/jobs/protocol", summary="Train, probe, attack and compare in one call", **_SUBMITTED)
def protocol(
    opened: Opened,
    asking: Asking,
    response: Response,
    *,
    body: Annotated[ProtocolBody, Body(examples=[examples.PROTOCOL])],
    raw: JsonBody,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """A parent job whose children do the work; its result is the comparison."""
    return _submit(opened, asking, response, kind="protocol", path="/jobs/protocol", body=raw, key=idempotency_key)


@router.post("/evaluate", summary="Attack a classifier", **_SUBMITTED)
def evaluate(
    opened: Opened,
    asking: Asking,
    response: Response,
    *,
    body: Annotated[EvaluateBody, Body(examples=[examples.EVALUATE])],
    raw: JsonBody,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Clean and robust accuracy with intervals. `GET /attacks` lists the attacks and their parameters."""
    return _submit(opened, asking, response, kind="evaluate", path="/evaluate", body=raw, key=idempotency_key)


@router.post("/evaluate/corruptions", summary="Corrupt the images of a classifier", **_SUBMITTED)
def evaluate_corruptions(
    opened: Opened,
    asking: Asking,
    response: Response,
    *,
    body: Annotated[CorruptionsBody, Body(examples=[examples.CORRUPTIONS])],
    raw: JsonBody,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Accuracy under noise, blur, weather and digital artifacts at five strengths. `GET /corruptions` lists them."""
    return _submit(
        opened, asking, response, kind="corruptions", path="/evaluate/corruptions", body=raw, key=idempotency_key
    )


@router.get("/jobs", response_model=JobPage, summary="List jobs", responses=problem_responses(422))
def list_jobs(
    opened: Opened,
    asking: Asking,
    *,
    kind: Annotated[
        JobKind | None, Query(description="jobs of this kind; null: of every kind but shard and merge")
    ] = None,
    status: Annotated[JobStatus | None, Query(description="jobs in this state; null: in any")] = None,
    label: Labels = None,
    limit: Limit = FIRST_PAGE,
    cursor: Cursor = None,
) -> Any:
    """Your own that match every filter given, newest first. Parts of an evaluation are listed by `kind` alone."""
    with opened.database.session() as session:
        page = jobs.list_jobs(
            session,
            asking=asking,
            kind=kind,
            status=status,
            labels=_parse_labels(label or []),
            limit=limit,
            cursor=cursor,
        )
        return {"items": jobs.job_views(session, page.items), "next_cursor": page.next_cursor}


@router.get("/jobs/{job_id}", response_model=JobView, summary="Read a job", responses=problem_responses(404))
def read_job(opened: Opened, job_id: JobId) -> Any:
    """The job as it stands now."""
    with opened.database.session() as session:
        return jobs.job_view(session, jobs.get(session, job_id))


@router.get(
    "/jobs/{job_id}/metrics", response_model=MetricSeries, summary="Metrics of a job", responses=problem_responses(404)
)
def read_metrics(opened: Opened, job_id: JobId, *, points: Points = None) -> Any:
    """Every series that the job reported, by step; thinned evenly over its steps on request, both ends kept."""
    with opened.database.session() as session:
        return {"series": jobs.metric_series(session, job_id, points=points)}


@router.get(
    "/jobs/{job_id}/examples", response_model=Examples, summary="Attacked images", responses=problem_responses(404)
)
def list_examples(opened: Opened, job_id: JobId) -> Any:
    """Images before and after an attack, with links to their PNGs and exact pixels, and both predictions."""
    with opened.database.session() as session:
        job = jobs.get(session, job_id)
        kept, result = job.examples or [], job.result or {}
    base = f"/jobs/{job_id}/examples"
    return Examples(
        file=f"{base}.safetensors" if result.get("examples_file") else None,
        pruned_at=result.get("examples_pruned_at"),
        items=[
            Example(**{**example, **{part: f"{base}/{index}/{part}.png" for part in references.PICTURES}})
            for index, example in enumerate(kept)
        ],
    )


@router.post(
    "/jobs/{job_id}/cancel",
    status_code=status.HTTP_202_ACCEPTED,
    response_model=JobView,
    summary="Cancel a job",
    responses=problem_responses(404, 409),
)
def cancel(opened: Opened, job_id: JobId) -> Any:
    """A running job stops within one step and keeps its last checkpoint."""
    with opened.database.writing() as session:
        return jobs.job_view(session, jobs.cancel(session, job_id))


@router.post(
    "/jobs/{job_id}/resume",
    status_code=status.HTTP_202_ACCEPTED,
    response_model=JobView,
    summary="Resume a job",
    responses=problem_responses(404, 409),
)
def resume(opened: Opened, asking: Asking, job_id: JobId) -> Any:
    """A failed or cancelled job goes on from its last checkpoint."""
    with opened.database.writing() as session:
        quotas.admit_job(session, asking)
        job = jobs.resume(session, job_id)
        view = jobs.job_view(session, job)
        waiting = _waiting(session, job)
    _publish(opened, waiting)
    return view


def _submit(
    opened: Resources,
    asking: Principal,
    response: Response,
    *,
    kind: JobKind,
    path: str,
    body: dict[str, Any],
    key: str | None,
) -> dict[str, Any]:
    waiting: list[tuple[str, str]] = []

    def create(session: Session) -> dict[str, Any]:
        spec, register_as, labels = specs.validate(session, kind=kind, body=body, asking=asking)
        quotas.admit_job(session, asking)
        job = jobs.submit(session, kind=kind, spec=spec, labels=labels, register_as=register_as, account=asking.account)
        waiting.extend(_waiting(session, job))
        return jobs.job_view(session, job)

    view, replayed = once(opened, create, asking=asking, scope=f"POST {path}", key=key, body=body)
    if not replayed:
        # The line that joins the ids: it carries the request's as well.
        log.info("%s job %s submitted", kind, view["id"], extra={"job_id": view["id"]})
        _publish(opened, waiting)
    response.headers["Location"] = f"/jobs/{view['id']}"
    return view


def _waiting(session: Session, job: Job) -> list[tuple[str, str]]:
    """(id, queue) of the jobs that a worker may take because of ``job``."""
    return [(found.id, found.queue) for found in jobs.runnable(session, job) if found.queue is not None]


def _publish(opened: Resources, waiting: list[tuple[str, str]]) -> None:
    """Tell the workers, after the commit. One failure is enough to know: the reaper finds the rest too."""
    for job_id, queue in waiting:
        if not publish(opened.celery, job_id, queue=queue):
            return


def _parse_labels(labels: list[str]) -> set[tuple[str, str]]:
    parsed = set()
    for label in labels:
        key, separator, value = label.partition(":")
        if not separator or not key:
            detail = f"{label[:100]!r} is not a label; give key:value"
            raise InvalidSpecError(detail, errors=[FieldError(pointer="/label", detail=detail)])
        parsed.add((key, value))
    return parsed
