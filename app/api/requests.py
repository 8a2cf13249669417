"""What a request's body may be before anything looks into it: its size, its content type, and strict JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.params import Form
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.settings import Settings


def parse_json(body: bytes) -> Any:
    """Strict JSON: NaN, Infinity, duplicate keys, lone surrogates and NUL are refused, as is what nests too deep.

    Raises HTTPException 400.
    """
    if not body:
        raise HTTPException(400, "the body is empty; send JSON")
    try:
        value = json.loads(body, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
        # Only an escaped surrogate can be alone: the decoder has checked the bytes.
        if b"\\ud" in body.lower() or b"\\u0000" in body:
            _check_text(json.dumps(value, ensure_ascii=False))
    except RecursionError:
        raise HTTPException(400, "the JSON nests too deep") from None
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"an object gives a key twice; its keys are {sorted(found)[:20]}")
    return found


def _check_text(text: str) -> None:
    if "\\u0000" in text:
        raise ValueError("text may not hold the NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("text holds half of a surrogate pair") from None


def is_json(content_type: str) -> bool:
    """Whether a Content-Type header names JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


class StrictRequest(Request):
    """A request whose JSON is parsed by :func:`parse_json`."""

    async def json(self) -> Any:
        return parse_json(await self.body())


class StrictRoute(APIRoute):
    """A route that takes strict JSON, and says 415 to anything else where it takes JSON alone."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        field = self.body_field
        json_only = field is not None and not isinstance(field.field_info, Form)

        async def strict(request: Request) -> Response:
            if json_only and _has_body(request) and not is_json(request.headers.get("content-type", "")):
                raise HTTPException(415, "send JSON with the header Content-Type: application/json")
            return await handle(StrictRequest(request.scope, request.receive))

        return strict


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


class BodyLimit:
    """Refuses (413) a body larger than its path's limit: by its declared length, and counted while it arrives."""

    def __init__(self, app: ASGIApp, *, limit_of: Callable[[str], int]) -> None:
        self._app = app
        self._limit_of = limit_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit_of(scope["path"])
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        received = int(declared) if declared.isdigit() else 0
        counted = 0

        async def bounded() -> Message:
            nonlocal counted
            message = await receive()
            counted += len(message.get("body", b""))
            # Raised where the route reads, so that the answer is a problem like any other.
            if max(received, counted) > limit:
                raise HTTPException(413, f"the body is larger than {limit} bytes, the most accepted here")
            return message

        await self._app(scope, bounded, send)


JSON_MAX_BYTES = 4 * 1024 * 1024
"""A spec has a few kilobytes."""
IMAGES_MAX_BYTES = 128 * 1024 * 1024
"""All images of one request together."""
FORM_BYTES = 1024 * 1024
"""What a form adds to the file that it carries."""


def body_limits(settings: Settings) -> Callable[[str], int]:
    """Path → the most bytes that a body may have there."""
    images = max(IMAGES_MAX_BYTES, settings.image_max_bytes * 2)  # base64 takes a third more than the file

    def limit_of(path: str) -> int:
        if path in {"/classify", "/embed"}:
            return images
        if path == "/datasets" or (path.startswith("/models/") and path.endswith("/versions")):
            return settings.upload_max_bytes + FORM_BYTES
        return JSON_MAX_BYTES

    return limit_of
