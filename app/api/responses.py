"""What every answer says to a browser."""

from __future__ import annotations

from types import MappingProxyType

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Guarded:
    """What a stranger sent is never taken for more than its content type, and nothing shows in a foreign page's frame.

    `Referrer-Policy: same-origin` keeps addresses to this site. It must not be `no-referrer`, with which a form is sent
    with `Origin: null`, as if it were a foreign page's.
    """

    _HEADERS = MappingProxyType(
        {
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "frame-ancestors 'none'",
            "Referrer-Policy": "same-origin",
        }
    )

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._HEADERS.items():
                    headers.setdefault(name, value)  # a page has a stricter policy of its own
            await send(message)

        await self._app(scope, receive, marked)
