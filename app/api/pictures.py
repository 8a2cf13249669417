"""Attacked images kept by evaluations: pictures as PNG, and their exact pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Response

from app.api.access import JobId
from app.api.dependencies import Opened, Resources
from app.errors import NotFoundError
from app.records import Job
from app.schemas.problems import problem_responses
from app.services import jobs, references
from models.evaluation_spec import MAX_EXAMPLES

router = APIRouter(tags=["jobs"])

Part = Annotated[
    Literal["clean", "adversarial", "difference"],
    Path(description="the image before, after, or what the attack changed"),
]
_PNG: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture.", "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}


_PIXELS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A safetensors file.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get(
    "/jobs/{job_id}/examples.safetensors",
    response_class=Response,
    summary="The examples' exact pixels",
    responses={**_PIXELS, **problem_responses(404, 503)},
)
def read_pixels(opened: Opened, job_id: JobId) -> Response:
    """`clean` and `adversarial`, float32 (M, C, H, W) in [0, 1]; `index` and `label`, int64 (M,), in the list's order.

    A PNG rounds to 8 bits, which undoes small perturbations; `survives_8bit` of an example says whether it did.
    """
    with opened.database.session() as session:
        job = jobs.get(session, job_id)
    kept = (job.result or {}).get("examples_file")
    if kept is None:
        raise NotFoundError(_missing(job))
    name = {"Content-Disposition": f'attachment; filename="examples-{job_id}.safetensors"'}
    return _artifact(opened, job, kept["sha256"], media_type="application/octet-stream", headers=name)


@router.get(
    "/jobs/{job_id}/examples/{index}/{part}.png",
    response_class=Response,
    summary="One picture of an example",
    responses={**_PNG, **problem_responses(404, 503)},
)
def read_picture(
    opened: Opened,
    job_id: JobId,
    *,
    index: Annotated[int, Path(ge=0, lt=MAX_EXAMPLES, description="position in the list")],
    part: Part,
) -> Response:
    """The image as it was, as it was attacked, or their difference × 10 around mid-grey."""
    with opened.database.session() as session:
        job = jobs.get(session, job_id)
    kept = job.examples or []
    if not kept:
        raise NotFoundError(_missing(job))
    if index >= len(kept):
        raise NotFoundError(f"job {job_id} keeps {len(kept)} examples; there is none at {index}")
    return _artifact(opened, job, kept[index][part], media_type="image/png")


def _missing(job: Job) -> str:
    pruned = (job.result or {}).get("examples_pruned_at")
    return f"the examples of job {job.id} were pruned at {pruned}" if pruned else f"job {job.id} keeps no examples"


def _artifact(
    opened: Resources, job: Job, sha256: str, *, media_type: str, headers: Mapping[str, str] | None = None
) -> Response:
    folder = references.examples_of(job.id, kind=job.kind, parent_id=job.parent_id)
    data = opened.storage.scoped(folder).read(sha256)
    # An artifact never changes, but a job that is resumed may get other examples.
    caching = {"ETag": f'"{sha256}"', "Cache-Control": "no-cache"}
    return Response(data, media_type=media_type, headers={**caching, **(headers or {})})
