"""The id of each request, its one line in the access log, and its count in the metrics."""

from __future__ import annotations

import logging
import re
import time
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs
from app.api.telemetry import Telemetry
from app.records import new_id

HEADER = "X-Request-ID"
_SANE = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")
_LONGEST_PATH = 500

access_log = logging.getLogger("app.access")


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})
"""Counted by name: a client may invent methods, and each would stay in memory as a series of its own."""


class RequestLog:
    """Outermost: also the answers to errors carry the id, and what is logged on the way to them."""

    def __init__(self, app: ASGIApp, *, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        began, status = time.monotonic(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with logs.context(request_id=request_id):
            try:
                await self._app(scope, receive, watched)
            finally:
                self._note(scope, status=status, seconds=time.monotonic() - began)

    def _note(self, scope: Scope, *, status: int, seconds: float) -> None:
        # Counted under the route's pattern: paths hold ids, and would make a series each.
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if route != "unknown" and scope["method"] in METHODS else "unknown"
        self._telemetry.requests.labels(method, route, str(status)).inc()
        self._telemetry.seconds.labels(method, route).observe(seconds)
        # Without the query, which may hold anything. Encoded anew, so that a blank or a newline cannot break the line.
        path = quote(scope["path"][:_LONGEST_PATH], safe="/:@!$&'()*+,;=")
        client = scope["client"][0] if scope.get("client") else None
        fields = {
            "method": scope["method"],
            "path": path,
            "route": route,
            "status": status,
            "milliseconds": round(seconds * 1000, 1),
            "client": client,
            "token_id": scope.get("state", {}).get("token_id"),
        }
        # 500 is a fault of this service; the other 5xx say in words that something is missing or full.
        level = logging.ERROR if status == 500 else logging.WARNING if status > 500 else logging.INFO
        access_log.log(
            level, "%s %s %d in %.1f ms", scope["method"], path, status, fields["milliseconds"], extra=fields
        )


def _request_id(scope: Scope) -> str:
    """The client's own, if it is short and plain; else a new one."""
    given = Headers(scope=scope).get(HEADER, "")
    return given if _SANE.fullmatch(given) else new_id()
