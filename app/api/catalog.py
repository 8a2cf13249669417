"""What the service offers, and the comparison of what it measured."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response

from app.api.access import Asking, needs
from app.api.dependencies import NO_NUL, Opened
from app.errors import FieldError, InvalidSpecError, NotFoundError
from app.schemas.catalog import (
    Attacks,
    AttackView,
    Backbones,
    BackboneView,
    Corruptions,
    CorruptionView,
    FamilyNames,
    FamilyView,
    Methods,
    MethodView,
)
from app.schemas.figures import Comparison
from app.schemas.problems import problem_responses
from app.services import compare as comparison
from models.attacks.spec import ATTACKS
from models.backbones.spec import BACKBONES, FAMILIES
from models.corruptions.spec import CORRUPTIONS
from models.methods.spec import METHODS
from models.registry import UnknownNameError

router = APIRouter()

Format = Literal["json", "csv", "markdown", "latex"]
MOST_JOBS = 200
_MEDIA_TYPES: dict[Format, str] = {
    "json": "application/json",
    "csv": "text/csv",
    "markdown": "text/markdown",
    "latex": "application/x-latex",
}
_TABLE: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Comparison,
        "description": "The table: a row a model and attack, clean and robust accuracy, fractions in [0, 1].",
        "content": {
            media_type: {"schema": {"type": "string"}}
            for format, media_type in _MEDIA_TYPES.items()
            if format != "json"
        },
    }
}


@router.get("/methods", response_model=Methods, tags=["catalog"], summary="List methods of training")
def list_methods() -> Methods:
    """Every method of pretraining and training with its parameters, defaults, paper and formula."""
    return Methods(items=[MethodView.of(entry) for entry in METHODS.entries()])


@router.get("/attacks", response_model=Attacks, tags=["catalog"], summary="List attacks")
def list_attacks() -> Attacks:
    """Every attack with its parameters, bounds and source."""
    return Attacks(items=[AttackView.of(entry) for entry in ATTACKS.entries()])


@router.get("/corruptions", response_model=Corruptions, tags=["catalog"], summary="List corruptions")
def list_corruptions() -> Corruptions:
    """Every corruption with its parameters at each severity and its source."""
    return Corruptions(items=[CorruptionView.of(entry) for entry in CORRUPTIONS.entries()])


@router.get("/backbones", response_model=Backbones, tags=["catalog"], summary="List backbones")
def list_backbones() -> Backbones:
    """Every registered backbone, and the families of other libraries' networks: names of those are family/name."""
    return Backbones(
        items=[BackboneView.of(entry) for entry in BACKBONES.entries()],
        families=[FamilyView.of(family) for family in FAMILIES.entries()],
    )


@router.get(
    "/backbones/{family}",
    response_model=FamilyNames,
    tags=["catalog"],
    summary="List a family of backbones",
    responses=problem_responses(404),
)
def list_family(family: Annotated[str, Path(description="such as torchvision", max_length=100)]) -> FamilyNames:
    """What its library has. Each is checked against the images' shape when a job or an upload names it."""
    try:
        return FamilyNames(items=[f"{family}/{name}" for name in FAMILIES[family].names()])
    except UnknownNameError as error:
        raise NotFoundError(str(error)) from None


@router.get(
    "/compare",
    response_class=Response,
    tags=["jobs"],
    summary="Compare evaluations",
    dependencies=[needs("submit")],
    responses={**_TABLE, **problem_responses(404, 409, 422)},
)
def compare(
    opened: Opened,
    asking: Asking,
    jobs: Annotated[
        str, Query(max_length=20_000, pattern=NO_NUL, description="ids of evaluations or protocols, comma-separated")
    ],
    *,
    format: Annotated[Format, Query(description="how the table is written")] = "json",
) -> Response:
    """The paper's Table 1 layout: one row a model and attack, before and after."""
    ids = [job_id.strip() for job_id in jobs.split(",") if job_id.strip()]
    if not 1 <= len(ids) <= MOST_JOBS:
        detail = f"{len(ids)} jobs are named; give 1 to {MOST_JOBS} ids, separated by commas"
        raise InvalidSpecError(detail, errors=[FieldError(pointer="/jobs", detail=detail)])
    with opened.database.session() as session:
        rows = comparison.compare(session, ids, asking=asking)
    return Response(comparison.render(rows, format), media_type=_MEDIA_TYPES[format])
