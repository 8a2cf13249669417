"""Chromium without a window, driven as its own tools drive it: the DevTools protocol, over a socket."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
PATIENCE = 60
"""Seconds after which what a page should come to show is taken for missing."""


class Page:
    """One tab. Documented at chromedevtools.github.io/devtools-protocol."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self._count = 0
        self._session: dict[str, str] = {}
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        attached = self.command("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        self.command("Page.enable")

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params, **self._session}
        self._connection.sendall(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            pass
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            received = self._connection.recv(65536)
            if not received:
                raise ConnectionError("the browser has ended")
            self._received += received
        message, _, self._received = self._received.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def go(self, url: str) -> None:
        """Open ``url`` and what it is made of; what its scripts ask for may be on its way still."""
        assert "errorText" not in self.command("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to in the page, as JSON."""
        answer = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """The expression's value once it is true; meanwhile it may fail, as in a page that goes to another."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(AssertionError):
                if found := self.value(expression):
                    return found
            time.sleep(0.05)
        raise AssertionError(f"never true: {expression}\n{self.text}")

    @property
    def text(self) -> str:
        """What a reader of the page sees."""
        return str(self.value("document.body.innerText"))


@contextmanager
def opened_page(profile: Path, *options: str) -> Iterator[Page]:
    """An empty tab of a browser of its own, which keeps what it keeps in ``profile``."""
    browser = next((found for name in NAMES if (found := shutil.which(name))), None)
    assert browser, f"the browser tests need one of {', '.join(NAMES)}; see tests/system/install-servers"
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(PATIENCE)
        with theirs:  # the browser reads commands from descriptor 3 and writes answers to 4
            wired = ["bash", "-c", f'exec "$@" 3<&{theirs.fileno()} 4>&{theirs.fileno()}', "bash", browser]
            command = [*wired, *OPTIONS, *options, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
            quiet = subprocess.DEVNULL
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=quiet, stderr=quiet)
        try:
            yield Page(ours)
        finally:
            process.terminate()
            process.wait(30)
