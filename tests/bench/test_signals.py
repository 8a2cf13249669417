"""A benchmark that is told to end leaves no server behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.servers import wait_for
from tests.system.trainings import children_of, lives


def below(pid: int) -> list[int]:
    """Every process that it started, and those that they started."""
    return [found for child in children_of(pid) for found in (child, *below(child))]


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that PostgreSQL's own account may enter."""
    with TemporaryDirectory(prefix="clead-bench-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize(("script", "servers"), [("scale", 3), ("shards", 1)])
def test_sigterm_stops_the_servers_too(folder: Path, script: str, servers: int) -> None:
    options = ["--folder", str(folder)] if script == "scale" else []
    command = [sys.executable, "-m", f"bench.{script}", *options]
    process = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(folder)})
    started: list[int] = []
    try:
        wait_for(lambda: process.poll() is not None or has_worker(process.pid), seconds=250, what="a worker")
        started = below(process.pid)
        assert len(children_of(process.pid)) >= servers
        process.terminate()
        assert process.wait(120) == 143
        wait_for(lambda: not any(map(lives, started)), what="the end of what it started")
    finally:
        for pid in [process.pid, *started]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def has_worker(pid: int) -> bool:
    return any(b"worker.main" in command_of(child) for child in children_of(pid))


def command_of(pid: int) -> bytes:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
