"""Errors → `application/problem+json` (RFC 9457), in one place. No stack trace ever leaves the process."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, get_args

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.errors import (
    ConflictError,
    DomainError,
    FieldError,
    ForbiddenError,
    InvalidSpecError,
    NotFoundError,
    OverloadedError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
)
from app.file_systems import DISK_FULL
from app.schemas.locations import pointer, unknown_field
from app.schemas.problems import MEDIA_TYPE

log = logging.getLogger(__name__)

_STATUS: dict[type[DomainError], int] = {
    UnauthenticatedError: 401,
    ForbiddenError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    TooLargeError: 413,
    InvalidSpecError: 422,
    OverloadedError: 429,
    UnavailableError: 503,
}
MOST_ERRORS = 50
MOST_TEXT = 2_000
"""Of what a client sent, an answer repeats no more than this: wrong fields, and characters of a text."""
CLIENT_CLOSED_REQUEST = 499
"""As nginx has it; no client ever sees it."""
_RETRY_SECONDS = 5
"""When to try again where nothing better is known."""


def status_of(error: DomainError) -> int:
    """The answer's status; a kind of error that this table does not know is the client's to correct."""
    return next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 422)


def problem(status: int, detail: str, *, errors: Sequence[FieldError] = (), instance: str | None = None) -> Any:
    """The problem object: also an entry's ``error`` where one image of many is bad."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": _shortened(detail),
    }
    if instance is not None:
        body["instance"] = _shortened(instance)
    if errors:
        body["errors"] = [
            {"pointer": _shortened(error["pointer"]), "detail": _shortened(error["detail"])}
            for error in errors[:MOST_ERRORS]
        ]
    return body


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 1]}…"


def install(app: FastAPI) -> None:
    """Answer every error of ``app`` with a problem."""
    app.add_exception_handler(DomainError, _domain_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(OperationalError, _database_error)
    app.add_exception_handler(PoolTimeoutError, _database_error)
    app.add_exception_handler(ClientDisconnect, _nobody_waits)
    app.add_exception_handler(OSError, _system_error)
    app.add_exception_handler(Exception, _unexpected_error)


def _respond(
    request: Request,
    status: int,
    detail: str,
    *,
    errors: Sequence[FieldError] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    body = problem(status, detail, errors=errors, instance=request.url.path)
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


async def _domain_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DomainError)
    status = status_of(error)
    headers = {}
    if status in {429, 503}:
        seconds = error.retry_after if isinstance(error, OverloadedError) else _RETRY_SECONDS
        headers["Retry-After"] = str(max(1, round(seconds)))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _respond(request, status, error.detail, errors=error.errors, headers=headers)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, OSError):  # the framework takes a form that it cannot keep for one that is wrong
        return await _system_error(request, error.__cause__)
    detail = str(error.detail)
    if error.status_code == 404 and detail == HTTPStatus.NOT_FOUND.phrase:
        detail = f"there is nothing at {request.url.path}; see /docs"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        detail = f"{request.method} is not possible here; allowed: {allowed}"
    return _respond(request, error.status_code, detail, headers=error.headers)


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    causes = _causes(error.errors())
    found = [_field_error(request, item, body=error.body) for item in causes[:MOST_ERRORS]]
    return _respond(request, 422, _summary(found, count=len(causes)), errors=found)


def _causes(items: Sequence[Any]) -> list[Any]:
    """The errors without those that only follow from others: a list is "too short" once a bad item is taken out."""
    locations = [tuple(item["loc"]) for item in items]
    return [
        item
        for item, place in zip(items, locations, strict=True)
        if item["type"] != "too_short"
        or not any(len(other) > len(place) and other[: len(place)] == place for other in locations)
    ]


def _summary(errors: Sequence[FieldError], *, count: int) -> str:
    """One line for a person who sees ``detail`` alone; ``count``: of all errors, of which these are the first."""
    first = f"{errors[0]['pointer'] or 'the body'}: {errors[0]['detail']}"
    return first if count == 1 else f"{first[:1_000]} (and {count - 1} more; see errors)"


def _field_error(request: Request, item: Mapping[str, Any], *, body: Any) -> FieldError:
    place, *location = item["loc"]
    detail = str(item["msg"]).removeprefix("Value error, ")
    if detail.startswith("Expected UploadFile"):  # the framework's words for text in a file's field
        detail = "send a file"
    if place != "body":
        return {"pointer": "".join(f"/{step}" for step in location), "detail": f"{place} parameter: {detail}"}
    if not isinstance(body, dict | list):
        return {"pointer": "".join(f"/{step}" for step in location), "detail": detail}
    if item["type"] == "extra_forbidden":
        detail = unknown_field(location, body, _body_models(request))
    return {"pointer": pointer(location, body), "detail": detail}


def _body_models(request: Request) -> list[type[BaseModel]]:
    """The model classes that the route's body may be."""
    field = getattr(request.scope.get("route"), "body_field", None)
    found: list[type[BaseModel]] = []
    waiting = [field.field_info.annotation] if field is not None else []
    while waiting:
        annotation = waiting.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
            waiting += annotation.__subclasses__()
        waiting += get_args(annotation)
    return found


async def _database_error(request: Request, error: Exception) -> JSONResponse:
    log.error("the database failed: %s", error)
    headers = {"Retry-After": str(_RETRY_SECONDS)}
    return _respond(request, 503, "the database does not answer; try again", headers=headers)


async def _system_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, OSError)
    if error.errno not in DISK_FULL:
        return await _unexpected_error(request, error)
    log.error("%s %s failed: %s", request.method, request.url.path, error)
    return _respond(request, 507, "the service's disk is full; nothing was kept; try again when there is room")


async def _nobody_waits(request: Request, error: Exception) -> Response:
    """The client went away, which is no fault of the service; the status is for the log and the metrics alone."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _unexpected_error(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _respond(request, 500, "an error inside the service; its log has the cause")
