"""Real Redis, PostgreSQL and S3 servers on free ports, for the length of a ``with`` block."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(condition: Callable[[], bool], *, seconds: float = START_SECONDS, what: str = "the condition") -> None:
    """Poll until ``condition``; AssertionError after ``seconds``, which only ends a hang."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def program(name: str) -> str:
    """Where a server's program lies; its absence is an error: these tests are not optional."""
    found = shutil.which(name)
    if found is None:
        beside = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        assert beside, f"{name} is not installed; run tests/system/install-servers"
        found = str(beside[-1])
    return found


@contextmanager
def redis() -> Iterator[str]:
    """Yields the URL of a Redis without persistence."""
    with tempfile.TemporaryDirectory(prefix="clead-redis-") as folder, redis_on(free_port(), Path(folder)) as url:
        yield url


@contextmanager
def redis_on(port: int, folder: Path) -> Iterator[str]:
    """Redis on a given port, so that a test can let it go away and come back."""
    # Ten thousand numbered databases: each test takes its own. No persistence.
    options = ["--bind", "127.0.0.1", "--databases", "10000", "--save", "", "--dir", str(folder)]
    command = [program("redis-server"), "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: listens(port), what="redis-server")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def s3() -> Iterator[str]:
    """Yields the endpoint of an S3 server that keeps its buckets in memory and takes any keys."""
    with s3_on(free_port()) as url:
        yield url


@contextmanager
def s3_on(port: int) -> Iterator[str]:
    """The S3 server on a given port, so that a test can let it go away and come back, empty."""
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: listens(port), what="the S3 server")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def postgres() -> Iterator[str]:
    """Yields the SQLAlchemy URL of a PostgreSQL cluster's server, without a database name."""
    user = _unprivileged()
    with tempfile.TemporaryDirectory(prefix="clead-postgres-") as folder:
        data = Path(folder) / "data"
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        port = free_port()
        options = ["-U", "clead", "-A", "trust", "-N", "--encoding=UTF8", "--locale=C"]
        initdb = [program("initdb"), "-D", str(data), *options]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **_as(user))
        # No fsync: these data need not survive the machine. The socket stays in the folder.
        command = [program("postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"]
        with (Path(folder) / "log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, **_as(user))
        try:
            wait_for(lambda: listens(port), what="postgres")
            yield f"postgresql+psycopg://clead@127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGINT)  # fast shutdown: open connections are closed
            server.wait()


def _unprivileged() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root: the account to use then."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return pwd.getpwnam("postgres" if "postgres" in names else "nobody")


def _as(user: pwd.struct_passwd | None) -> dict[str, object]:
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": "/"}
