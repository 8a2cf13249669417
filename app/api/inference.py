"""Pictures in, predictions or features out. Never through the job queue."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from app.api.dependencies import Opened, Resources
from app.api.requests import StrictRoute, is_json, unless_gone
from app.errors import ConflictError, FieldError, InvalidSpecError, NotFoundError, TooLargeError
from app.records import ModelVersion
from app.records.session import Database
from app.schemas import examples
from app.schemas.inference import MAX_FILENAME, MAX_IMAGES, Classification, Embeddings, EncodedImage, ImagesBody
from app.schemas.problems import problem_responses
from app.services import models
from app.serving import inference
from app.serving.decode import BadImageError
from app.serving.engine import Served
from app.serving.inference import Picture
from app.settings import Settings
from models.references import ModelRef

router = APIRouter(tags=["inference"], route_class=StrictRoute)

DEFAULT_ALIAS = "production"
FIELD = "images"
Model = Annotated[
    ModelRef | None, Query(description="name, name@version or name@alias; null: the model with the alias production")
]
TopK = Annotated[int, Query(ge=1, le=1000, description="classes in `top_k`; at most all that the model has")]
_FILES = {
    "type": "array",
    "items": {"type": "string", "format": "binary"},
    "minItems": 1,
    "maxItems": MAX_IMAGES,
    "description": "one file or many",
}
_ENCODED = {
    "type": "array",
    "items": EncodedImage.model_json_schema(),
    "minItems": 1,
    "maxItems": MAX_IMAGES,
    "description": "one image or many",
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _FILES}},
            },
            "application/json": {
                "schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _ENCODED}},
                "example": examples.IMAGES,
            },
        },
    }
}
_RESPONSES = problem_responses(400, 404, 409, 413, 415, 422, 429, 503)


@router.post(
    "/classify", response_model=Classification, summary="Classify images", openapi_extra=_BODY, responses=_RESPONSES
)
async def classify(opened: Opened, request: Request, *, model: Model = None, top_k: TopK = 5) -> Response:
    """One bad image does not spoil the rest: its entry carries `error`. All bad: 422.

    The first frame counts, EXIF orientation is applied, transparency dropped. A picture of the model's own size passes
    bit for bit; any other is scaled (bilinear, antialiased) to cover that size and cropped around its centre.
    """
    served = await _served(opened, model)
    async with _pictures(request, opened.settings) as pictures:
        answer = inference.classify(opened.engine, served, pictures=pictures, top_k=top_k)
        return Response(await unless_gone(request, answer), media_type="application/json")


@router.post("/embed", response_model=Embeddings, summary="Embed images", openapi_extra=_BODY, responses=_RESPONSES)
async def embed(opened: Opened, request: Request, *, model: Model = None) -> Response:
    """The backbone's feature vectors; takes images as `POST /classify` does, and encoders as well as classifiers."""
    served = await _served(opened, model)
    async with _pictures(request, opened.settings) as pictures:
        answer = inference.embed(opened.engine, served, pictures=pictures)
        return Response(await unless_gone(request, answer), media_type="application/json")


async def _served(opened: Resources, reference: str | None) -> Served:
    inference.require_room(opened.engine)
    version = await run_in_threadpool(_resolve, opened.database, reference)
    return await opened.engine.wait_for(version)


def _resolve(database: Database, reference: str | None) -> ModelVersion:
    with database.session() as session:
        if reference is not None:
            return models.resolve(session, reference)
        found = models.find_alias(session, DEFAULT_ALIAS)
    if not found:
        raise NotFoundError(
            f"no model has the alias {DEFAULT_ALIAS}; give ?model=NAME, or set it: "
            f'PUT /models/NAME/aliases/{DEFAULT_ALIAS} {{"version": N}}'
        )
    if len(found) > 1:
        names = ", ".join(version.name for version in found)
        raise ConflictError(
            f"several models have the alias {DEFAULT_ALIAS} ({names}); give ?model=NAME@{DEFAULT_ALIAS}"
        )
    return found[0]


@asynccontextmanager
async def _pictures(request: Request, settings: Settings) -> AsyncIterator[list[Picture]]:
    """The request's images, by content type; HTTPException 415, TooLargeError, InvalidSpecError."""
    content_type = request.headers.get("content-type", "")
    if is_json(content_type):
        yield await run_in_threadpool(_encoded, await request.json(), settings)
    elif content_type.lower().startswith("multipart/form-data"):
        try:
            form = await request.form(max_files=settings.image_max_count, max_fields=20)
        except HTTPException as error:
            if "Too many files" in str(error.detail):
                raise TooLargeError(f"more than {settings.image_max_count} images; send them in parts") from None
            raise
        try:
            yield _uploaded(form.multi_items(), settings)
        finally:
            await form.close()
    else:
        raise HTTPException(415, f"send multipart/form-data with files in {FIELD!r}, or application/json")


def _encoded(value: Any, settings: Settings) -> list[Picture]:
    try:
        body = ImagesBody.model_validate(value)
    except ValidationError as error:
        errors = [{**item, "loc": ("body", *item["loc"])} for item in error.errors(include_url=False)]
        raise RequestValidationError(errors, body=value) from None
    _check_count(len(body.images), settings)
    return [Picture(image.filename, _decoder(image.base64)) for image in body.images]


def _decoder(text: str) -> Callable[[], Coroutine[Any, Any, bytes]]:
    async def read() -> bytes:
        try:
            return await run_in_threadpool(base64.b64decode, text, validate=True)
        except (binascii.Error, ValueError):
            detail = "not base64 (the standard alphabet, padded, no data: prefix)"
            raise BadImageError(detail, reason="not_base64") from None

    return read


def _uploaded(items: list[tuple[str, UploadFile | str]], settings: Settings) -> list[Picture]:
    wrong = [name for name, _ in items if name != FIELD]
    if wrong:
        detail = f"unknown form field {wrong[0][:100]!r}; send the files in {FIELD!r}"
        raise InvalidSpecError(detail, errors=[FieldError(pointer=f"/{wrong[0][:100]}", detail=detail)])
    if not items:
        detail = f"the form has no file in the field {FIELD!r}"
        raise InvalidSpecError(detail, errors=[FieldError(pointer=f"/{FIELD}", detail=detail)])
    _check_count(len(items), settings)
    return [_from_form(item, settings.image_max_bytes) for _, item in items]


def _from_form(item: UploadFile | str, max_bytes: int) -> Picture:
    async def read() -> bytes:
        if isinstance(item, str):
            raise BadImageError("the field holds text, not a file", reason="not_a_file")
        if len(item.filename or "") > MAX_FILENAME:
            detail = f"the file's name is longer than {MAX_FILENAME} characters"
            raise BadImageError(detail, reason="long_name")
        if item.size is not None and item.size > max_bytes:
            detail = f"the file has {item.size} bytes; at most {max_bytes} are accepted"
            raise BadImageError(detail, reason="too_many_bytes")
        return await item.read()

    name = None if isinstance(item, str) else item.filename
    return Picture(name and name[:MAX_FILENAME], read)


def _check_count(count: int, settings: Settings) -> None:
    if count > settings.image_max_count:
        raise TooLargeError(f"{count} images; at most {settings.image_max_count} are accepted in one request")
