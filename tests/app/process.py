"""The API as its own process, as uvicorn runs it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import httpx

from app.settings import Settings


@dataclass(frozen=True)
class ApiProcess:
    """A running API, and a client of it."""

    pid: int
    client: httpx.Client


@contextmanager
def running_api(settings: Settings) -> Iterator[httpx.Client]:
    """A client of :func:`api_process`."""
    with api_process(settings) as process:
        yield process.client


@contextmanager
def api_process(
    settings: Settings, *, log: IO[str] | None = None, ends: Collection[int] = (0, -signal.SIGTERM)
) -> Iterator[ApiProcess]:
    """`uvicorn app.main:create_app --factory` on a free port, its settings taken from the environment.

    ``ends``: exit codes, one of which it must have. After its shutdown uvicorn raises the signal again, so that its
    parent sees what ended it.
    """
    with socket.socket() as listener:
        # Listening already: the first request waits for the process instead of being refused.
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        command = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory", "--fd", str(listener.fileno())]
        environment = os.environ | {"CLEAD_HOME": str(settings.home)}
        process = subprocess.Popen(command, env=environment, pass_fds=[listener.fileno()], stdout=log, stderr=log)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
                yield ApiProcess(process.pid, client)
        finally:
            process.terminate()
            assert process.wait(30) in ends
