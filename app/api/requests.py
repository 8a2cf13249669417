"""A request's body before anything looks into it (its size, its content type, strict JSON), and its client after."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Collection, Coroutine
from typing import Any, NoReturn, TypeVar, get_args, get_origin

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.params import Form
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import access
from app.errors import FieldError, InvalidSpecError, OverloadedError
from app.problems import problem
from app.schemas.problems import MEDIA_TYPE
from app.settings import Settings

T = TypeVar("T")

MOST_KEYS = 200
"""Of one object: four times what any may have. Each unknown one is looked at and reported."""
EXACT = 2**53
"""Below it a float tells every whole number apart."""


def parse_json(body: bytes) -> Any:
    """Strict JSON in UTF-8: NaN, Infinity, duplicate keys, lone surrogates and NUL are refused, and too deep nesting.

    Raises HTTPException 400.
    """
    if not body:
        raise HTTPException(400, "the body is empty; send JSON")
    try:
        # Decoded here: json.loads would guess UTF-16 and UTF-32 from the bytes.
        text = body.decode("utf-8-sig")
        value = json.loads(text, parse_float=_number, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
        # Only an escaped surrogate can be alone: the decoder has checked the bytes.
        if "\\ud" in text.lower() or "\\u0000" in text:
            _check_text(json.dumps(value, ensure_ascii=False))
    except RecursionError:
        raise HTTPException(400, "the JSON nests too deep") from None
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    return value


def _number(text: str) -> int | float:
    """JSON has one kind of number: 5.0 is the whole number 5, as JSON Schema has it."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < EXACT else value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_KEYS:
        raise ValueError(f"an object has {len(pairs)} keys; no more than {MOST_KEYS} are accepted")
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"an object gives the key {twice[:100]!r} twice")
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


def _check_charset(content_type: str) -> None:
    """Raise HTTPException 415 for a charset that is not UTF-8: Python knows some that decode to anything at all."""
    _, options = parse_options_header(content_type)  # the reader that the form's own parser uses
    if options.get(b"charset", b"utf-8").lower() not in {b"utf-8", b"utf8", b"us-ascii"}:
        raise HTTPException(415, "send text in UTF-8; leave charset out of the Content-Type, or give utf-8")


async def _check_form(request: Request, *, known: Collection[str]) -> None:
    """Raise InvalidSpecError for a field that the route does not take, or that comes twice: one would be ignored."""
    form = await request.form()
    for name, count in Counter(name for name, _ in form.multi_items()).items():
        if name in known and count == 1:
            continue
        await form.close()
        what = "the field is there twice" if name in known else f"unknown form field; known: {', '.join(known)}"
        raise InvalidSpecError(f"{name[:100]!r}: {what}", errors=[FieldError(pointer=f"/{name}", detail=what)])


async def refuse_unknown_query(request: Request) -> None:
    """Raise InvalidSpecError for a query parameter that the route does not take, or twice: one would be ignored."""
    if not request.query_params:
        return
    known = _query_params(request.scope["route"].dependant)
    names = ", ".join(sorted(known))
    unknown = f"unknown query parameter; known: {names}" if known else "this takes no query parameters"
    errors = []
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            errors.append(FieldError(pointer=f"/{name}", detail=unknown))
        elif count > 1 and not known[name]:
            errors.append(FieldError(pointer=f"/{name}", detail="the query parameter is there twice"))
    if errors:
        raise InvalidSpecError(f"{errors[0]['pointer'][1:101]!r}: {errors[0]['detail']}", errors=errors)


def _query_params(dependant: Dependant) -> dict[str, bool]:
    """What the route and all that it depends on take: name → whether it is a list."""
    found = {param.alias: _is_list(param.field_info.annotation) for param in dependant.query_params}
    for inner in dependant.dependencies:
        found |= _query_params(inner)
    return found


def _is_list(annotation: Any) -> bool:
    return any(get_origin(part) is list for part in (annotation, *get_args(annotation)))


class StrictRequest(Request):
    """A request whose JSON is parsed by :func:`parse_json`."""

    async def json(self) -> Any:
        """In a thread: of a large body it takes a second, for which no other request should wait."""
        return await run_in_threadpool(parse_json, await self.body())


class StrictRoute(APIRoute):
    """A route that takes strict JSON, or a form of its own fields; 415 to anything else and to text not in UTF-8."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        field = self.body_field
        takes_form = field is not None and isinstance(field.field_info, Form)
        json_only = field is not None and not takes_form
        form_fields = [param.alias for param in self.dependant.body_params]
        scopes = access.scopes_of(self.dependant)
        assert scopes or not takes_form, f"{self.path} takes a form: it must name its scope itself"

        async def strict(request: Request) -> Response:
            content_type = request.headers.get("content-type", "")
            if json_only and _has_body(request) and not is_json(content_type):
                raise HTTPException(415, "send JSON with the header Content-Type: application/json")
            _check_charset(content_type)
            strict_request = StrictRequest(request.scope, request.receive)
            if takes_form:  # gigabytes, perhaps: from whom, comes first
                await access.admit(strict_request, scopes)
                await _check_form(strict_request, known=form_fields)
            return await handle(strict_request)

        return strict


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


async def unless_gone(request: Request, answer: Coroutine[Any, Any, T]) -> T:
    """``answer``, which is cancelled when the client goes away before. Only for a request whose body has been read.

    Raises ClientDisconnect.
    """
    answering = asyncio.create_task(answer)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ClientDisconnect
        return answering.result()
    finally:
        leaving.cancel()
        answering.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class BodyLimit:
    """Refuses a body larger than its path's limit (413), and images while others' take the memory for them (429).

    The first by its declared length, and counted while it arrives; the other by what has arrived: a length that is
    announced and does not come takes no memory and keeps nobody out. And (400) one whose end is told in two ways, by a
    length and by chunks: a proxy may believe the other, and take the rest for a request of its own (RFC 9112, 6.1).
    """

    def __init__(self, app: ASGIApp, *, limit_of: Callable[[str], int], images_max_bytes: int) -> None:
        self._app = app
        self._limit_of = limit_of
        self._images_max_bytes = images_max_bytes
        self._images_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit_of(scope["path"])
        headers = dict(scope["headers"])
        if b"content-length" in headers and b"transfer-encoding" in headers:
            body = problem(400, "the request has both a Content-Length and a Transfer-Encoding; send one of them")
            answer = JSONResponse(body, 400, media_type=MEDIA_TYPE, headers={"Connection": "close"})
            await answer(scope, receive, send)
            return
        declared = headers.get(b"content-length", b"0")
        size = int(declared) if declared.isdigit() else 0
        counted = held = 0

        async def bounded() -> Message:
            nonlocal counted, held
            message = await receive()
            arrived = len(message.get("body", b""))
            counted += arrived
            # Raised where the route reads, so that the answer is a problem like any other.
            if max(size, counted) > limit:
                raise HTTPException(413, f"the body is larger than {limit} bytes, the most accepted here")
            if scope["path"] in IMAGE_PATHS:
                self._hold(arrived)
                held += arrived
            return message

        def give_back() -> None:
            nonlocal held
            self._images_bytes -= held
            held = 0

        async def answered(message: Message) -> None:
            give_back()
            await send(message)

        try:
            await self._app(scope, bounded, answered)
        finally:
            give_back()

    def _hold(self, count: int) -> None:
        if self._images_bytes + count > self._images_max_bytes:
            raise OverloadedError(f"the images of other requests fill the {self._images_max_bytes} bytes for them")
        self._images_bytes += count


IMAGE_PATHS = frozenset({"/classify", "/embed"})
"""Their bodies are held in memory until they are answered."""
JSON_MAX_BYTES = 4 * 1024 * 1024
"""A spec has a few kilobytes."""
IMAGES_MAX_BYTES = 128 * 1024 * 1024
"""All images of one request together."""
FORM_BYTES = 1024 * 1024
"""What a form adds to the file that it carries."""


def images_limit(settings: Settings) -> int:
    """The most bytes of one body of images."""
    return max(IMAGES_MAX_BYTES, settings.image_max_bytes * 2)  # base64 takes a third more than the file


def body_limits(settings: Settings) -> Callable[[str], int]:
    """Path → the most bytes that a body may have there."""
    images = images_limit(settings)

    def limit_of(path: str) -> int:
        if path in IMAGE_PATHS:
            return images
        if path == "/datasets" or (path.startswith("/models/") and path.endswith("/versions")):
            return settings.upload_max_bytes + FORM_BYTES
        return JSON_MAX_BYTES

    return limit_of
