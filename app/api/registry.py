"""The model registry: versions, weights, aliases."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, File, Form, Path, Response, UploadFile, status
from fastapi.responses import StreamingResponse
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException

from app.api.access import Asking, needs
from app.api.dependencies import (
    FIRST_PAGE,
    Cursor,
    IdempotencyKey,
    Limit,
    ModelName,
    Opened,
    Resources,
    VersionNumber,
)
from app.api.idempotency import once
from app.api.requests import StrictRoute, parse_json
from app.errors import FieldError, ForbiddenError, InvalidSpecError, UnavailableError
from app.folders import work_folder
from app.schemas.catalog import AliasBody, AliasView, ModelPage, ModelView, NewestView, VersionView
from app.schemas.locations import pointer
from app.schemas.problems import problem_responses
from app.services import artifacts, models, quotas
from app.services.artifacts import Deposit
from models.checkpoints import CardError, CheckpointError, import_model, save_model
from models.references import Name
from models.specs import ModelCard

log = logging.getLogger(__name__)

router = APIRouter(tags=["models"], route_class=StrictRoute)

CHUNK = 1024 * 1024
AliasName = Annotated[Name, Path(description="such as production")]
_WEIGHTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The weights with the card in their metadata, as safetensors. `ETag` is their SHA-256.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("/models", response_model=ModelPage, summary="List models", responses=problem_responses(422))
def list_models(opened: Opened, *, limit: Limit = FIRST_PAGE, cursor: Cursor = None) -> Any:
    """Newest first, each with its newest version."""
    with opened.database.session() as session:
        page = models.list_models(session, limit=limit, cursor=cursor)
        items = [
            NewestView.of(models.resolve(session, name), models.list_aliases(session, name)) for name in page.items
        ]
    return ModelPage(items=items, next_cursor=page.next_cursor)


@router.get("/models/{name}", response_model=ModelView, summary="Read a model", responses=problem_responses(404))
def read_model(opened: Opened, name: ModelName) -> Any:
    """All versions and aliases of a model."""
    with opened.database.session() as session:
        versions, aliases = models.list_versions(session, name), models.list_aliases(session, name)
        return ModelView(name=name, aliases=aliases, versions=[VersionView.of(found, aliases) for found in versions])


@router.get(
    "/models/{name}/versions/{version}",
    response_model=VersionView,
    summary="Read a version",
    responses=problem_responses(404),
)
def read_version(opened: Opened, name: ModelName, *, version: VersionNumber) -> Any:
    """Architecture, classes, preprocessing, lineage, metrics, hash."""
    with opened.database.session() as session:
        return VersionView.of(models.get_version(session, name, version), models.list_aliases(session, name))


@router.get(
    "/models/{name}/versions/{version}/weights",
    response_class=StreamingResponse,
    summary="Download weights",
    responses={**_WEIGHTS, **problem_responses(404, 503)},
)
def download_weights(opened: Opened, name: ModelName, *, version: VersionNumber) -> StreamingResponse:
    """The safetensors file as it was registered."""
    with opened.database.session() as session:
        found = models.get_version(session, name, version)
    headers = {
        "Content-Length": str(found.size),
        "Content-Disposition": f'attachment; filename="{found.name}-{found.version}.safetensors"',
        "ETag": f'"{found.sha256}"',
    }
    file = opened.storage.open(found.sha256)
    return StreamingResponse(_chunks(file), media_type="application/octet-stream", headers=headers)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK):
            yield chunk


@router.post(
    "/models/{name}/versions",
    status_code=status.HTTP_201_CREATED,
    response_model=VersionView,
    summary="Upload a version",
    dependencies=[needs("submit")],
    responses=problem_responses(400, 409, 413, 422, 503),
)
def upload_version(
    opened: Opened,
    asking: Asking,
    response: Response,
    *,
    name: Annotated[Name, Path(description="the model; made if it is new")],
    weights: Annotated[UploadFile, File(description="a safetensors file")],
    card: Annotated[
        str | None, Form(max_length=1_000_000, description="the card as JSON; null: the file's metadata has it")
    ] = None,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """The weights must fit the card: every name and shape is checked before anything is kept.

    Weights may be named as the backbone's published implementation names them (`fc.weight`, `module.conv1.weight`);
    what is kept, and downloaded later, has the service's names and the card in its metadata.
    """
    parsed = None if card is None else _parse_card(card)
    with work_folder(opened.settings.work_dir, "upload") as folder:
        path = folder / "weights.safetensors"
        with path.open("wb") as file:
            shutil.copyfileobj(weights.file, file, CHUNK)
        card_json = _import(path, parsed).model_dump(mode="json")
        deposit = Deposit(opened.storage)
        artifact = deposit.put(path)

        def create(session: Session) -> dict[str, Any]:
            deposit.secure(session)
            if not models.reserve(session, name, asking=asking):
                raise ForbiddenError(f"the model {name!r} belongs to others; give another name")
            quotas.admit_bytes(session, asking, size=artifact.size)
            version = models.register_version(
                session,
                name=name,
                sha256=artifact.sha256,
                size=artifact.size,
                card=card_json,
                account=asking.account,
            )
            return VersionView.of(version, models.list_aliases(session, name)).model_dump(mode="json")

        body = {"sha256": artifact.sha256, "card": card_json}
        scope = f"POST /models/{name}/versions"
        view, _ = once(opened, create, asking=asking, scope=scope, key=idempotency_key, body=body)
    response.headers["Location"] = f"/models/{name}/versions/{view['version']}"
    return view


def _parse_card(text: str) -> ModelCard:
    try:
        value = parse_json(text.encode())
    except HTTPException as error:
        detail = str(error.detail).replace("the body", "the card", 1)
        raise InvalidSpecError(detail, errors=[FieldError(pointer="/card", detail=detail)]) from None
    try:
        return ModelCard.model_validate(value)
    except ValidationError as error:
        errors = [
            FieldError(pointer=f"/card{pointer(item['loc'], value)}", detail=item["msg"].removeprefix("Value error, "))
            for item in error.errors()
        ]
        raise InvalidSpecError("the card is not valid; see errors", errors=errors) from None


def _import(path: FilePath, card: ModelCard | None) -> ModelCard:
    """Write the uploaded weights anew under the service's names; answers their card."""
    try:
        model = import_model(path, card=card)
    except CheckpointError as error:
        pointer = "/card" if isinstance(error, CardError) and card is not None else "/weights"
        raise InvalidSpecError(str(error), errors=[FieldError(pointer=pointer, detail=str(error))]) from None
    if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
        detail = "the weights hold NaN or infinity"
        raise InvalidSpecError(detail, errors=[FieldError(pointer="/weights", detail=detail)])
    save_model(path, model)
    return model.card


@router.put(
    "/models/{name}/aliases/{alias}",
    response_model=AliasView,
    summary="Let an alias mean a version",
    dependencies=[needs("admin")],
    responses=problem_responses(400, 404, 409, 415, 422, 503),
)
def set_alias(opened: Opened, name: ModelName, *, alias: AliasName, body: AliasBody) -> Any:
    """A hot swap: the version is loaded and warm in this process before the alias moves, so no request waits."""
    with opened.database.session() as session:
        version = models.get_version(session, name, body.version)
    opened.engine.get(version)
    with opened.database.writing() as session:
        models.set_alias(session, name, alias=alias, version=body.version)
    return AliasView(name=name, alias=alias, version=body.version)


@router.delete(
    "/models/{name}/aliases/{alias}",
    status_code=status.HTTP_204_NO_CONTENT,
    summary="Delete an alias",
    dependencies=[needs("admin")],
    responses=problem_responses(404),
)
def delete_alias(opened: Opened, name: ModelName, *, alias: AliasName) -> None:
    """The version that it meant stays."""
    with opened.database.writing() as session:
        models.delete_alias(session, name, alias=alias)


@router.delete(
    "/models/{name}/versions/{version}",
    status_code=status.HTTP_204_NO_CONTENT,
    summary="Delete a version",
    dependencies=[needs("admin")],
    responses=problem_responses(404, 409),
)
def delete_version(opened: Opened, name: ModelName, *, version: VersionNumber) -> None:
    """Refused while an alias or an unfinished job needs it. The number is never used again."""
    with opened.database.writing() as session:
        sha256 = models.delete_version(session, name, version=version)
    _delete_weights(opened, [sha256])


@router.delete(
    "/models/{name}",
    status_code=status.HTTP_204_NO_CONTENT,
    summary="Delete a model",
    dependencies=[needs("admin")],
    responses=problem_responses(404, 409),
)
def delete_model(opened: Opened, name: ModelName) -> None:
    """Every version of it; refused while an alias or an unfinished job needs one."""
    with opened.database.writing() as session:
        hashes = models.delete_model(session, name)
    _delete_weights(opened, hashes)


def _delete_weights(opened: Resources, hashes: list[str]) -> None:
    """Only after the commit: weights without a row are waste, a row without weights is a broken model.

    The version is gone either way; weights that cannot be deleted now are what `clead prune --unreferenced` is for.
    """
    try:
        artifacts.delete_unused(opened.database, opened.storage, "", names=hashes)
    except (UnavailableError, OperationalError) as error:
        log.warning("weights of a deleted version stay in the storage: %s", error)
