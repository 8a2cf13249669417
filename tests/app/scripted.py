"""A service that gives prepared answers: what a real one does only when it is overloaded, restarted or broken."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, Any]] | tuple[int, dict[str, Any], dict[str, str]]


@contextmanager
def scripted(answers: Sequence[Answer], *, asked: list[bytes] | None = None) -> Iterator[str]:
    """Yields the address of a server that gives these answers in turn, and after the last none: it hangs up.

    ``asked`` gains the body of each request.
    """
    bodies = [] if asked is None else asked
    left = iter(answers)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            given = next(left, None)
            if given is None:
                self.close_connection = True
                return
            status, body, *headers = given
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in (headers[0] if headers else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer

        def log_message(self, *_: Any) -> None:
            """Nothing: the test's output is for what fails."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
