"""Pictures kept by evaluations, as PNG."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Response

from app.api.dependencies import JobId, Opened
from app.errors import NotFoundError
from app.schemas.problems import problem_responses
from app.services import jobs

router = APIRouter(tags=["jobs"])

Part = Literal["clean", "adversarial", "difference"]
_PNG: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture.", "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}


@router.get(
    "/jobs/{job_id}/examples/{index}/{part}.png",
    response_class=Response,
    summary="One picture of an example",
    responses={**_PNG, **problem_responses(404)},
)
def read_picture(
    opened: Opened, job_id: JobId, *, index: Annotated[int, Path(ge=0, description="position in the list")], part: Part
) -> Response:
    """The image as it was, as it was attacked, or their magnified difference."""
    with opened.database.session() as session:
        kept = jobs.get(session, job_id).examples or []
    if index >= len(kept):
        raise NotFoundError(f"job {job_id} keeps {len(kept)} examples; there is none at {index}")
    sha256 = kept[index][part]
    with opened.storage.open(sha256) as file:
        data = file.read()
    # An artifact never changes, but a job that is resumed may get other examples.
    headers = {"ETag": f'"{sha256}"', "Cache-Control": "no-cache"}
    return Response(data, media_type="image/png", headers=headers)
