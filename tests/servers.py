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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

START_SECONDS = 30.0


@dataclass(frozen=True)
class Site:
    """Where a server runs: on the loopback, or on a host of tests/namespaces.py, whose neighbours may reach it."""

    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    subnet: str | None = None

    def listens(self, port: int) -> bool:
        if not self.prefix:
            return listens(port)
        found = subprocess.run([*self.prefix, "ss", "-Hltn"], check=True, capture_output=True, text=True).stdout
        return f"{self.address}:{port}" in found


LOOPBACK = Site()


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
def redis_on(port: int, folder: Path, *more: str, site: Site = LOOPBACK) -> Iterator[str]:
    """Redis on a given port, so that a test can let it go away and come back; ``more``: options of the server."""
    # Ten thousand numbered databases: each test takes its own. No persistence.
    options = ["--databases", "10000", "--save", "", "--dir", str(folder), "--protected-mode", "no", *more]
    command = [*site.prefix, program("redis-server"), "--bind", site.address, "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: site.listens(port), what="redis-server")
        yield f"redis://{site.address}:{port}/0"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def s3() -> Iterator[str]:
    """Yields the endpoint of an S3 server that keeps its buckets in memory and takes any keys."""
    with s3_on(free_port()) as url:
        yield url


@contextmanager
def s3_on(port: int, *, site: Site = LOOPBACK) -> Iterator[str]:
    """The S3 server on a given port, so that a test can let it go away and come back, empty."""
    command = [*site.prefix, sys.executable, "-m", "moto.server", "--host", site.address, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: site.listens(port), what="the S3 server")
        yield f"http://{site.address}:{port}"
    finally:
        process.terminate()
        process.wait()


class Stoppable(NamedTuple):
    """A server that a test stops in the middle."""

    url: str
    stop: Callable[[], None]


@contextmanager
def stoppable_postgres() -> Iterator[Stoppable]:
    """A PostgreSQL server of the test's own."""
    with ExitStack() as stack:
        url = stack.enter_context(postgres())
        yield Stoppable(url, stack.close)


@contextmanager
def postgres(*, password: str | None = None) -> Iterator[str]:
    """Yields the SQLAlchemy URL of a PostgreSQL cluster's server, without a database name; it may ask a password."""
    with (
        tempfile.TemporaryDirectory(prefix="clead-postgres-") as folder,
        postgres_in(Path(folder), password=password) as url,
    ):
        yield url


@contextmanager
def postgres_in(
    folder: Path, *, password: str | None = None, site: Site = LOOPBACK, options: Sequence[str] = ("-F",)
) -> Iterator[str]:
    """PostgreSQL with its data, and a socket that all namespaces reach, in a folder that anybody may enter.

    A cluster that is there already is used again. ``options`` of the server: by default no fsync, since a test's data
    need not survive the machine.
    """
    data, port, user = folder / "data", free_port(), unprivileged()
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    if not data.exists():
        _init_cluster(data, user, password=password, site=site)
    # The socket stays in the folder.
    command = [program("postgres"), "-D", str(data), "-p", str(port), "-h", site.address, "-k", str(folder), *options]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([*site.prefix, *run_as(user), *command], stdout=log, stderr=log, cwd="/")
    try:
        # It listens before it takes connections. The socket reaches it from any namespace.
        ready = [program("pg_isready"), "-q", "-h", str(folder), "-p", str(port)]
        wait_for(lambda: server.poll() is not None or subprocess.run(ready).returncode == 0, what="postgres")
        assert server.poll() is None, f"postgres did not start:\n{(folder / 'log').read_text()}"
        account = "clead" if password is None else f"clead:{password}"
        yield f"postgresql+psycopg://{account}@{site.address}:{port}"
    finally:
        server.send_signal(signal.SIGINT)  # fast shutdown: open connections are closed
        server.wait()


def _init_cluster(data: Path, user: pwd.struct_passwd | None, *, password: str | None, site: Site) -> None:
    secret = data.parent / "password"
    secret.write_text(password or "unused")
    secret.chmod(0o644)
    check = ["-A", "trust"] if password is None else ["-A", "scram-sha-256", f"--pwfile={secret}"]
    chosen = ["-U", "clead", *check, "-N", "--encoding=UTF8", "--locale=C"]
    initdb = [*run_as(user), program("initdb"), "-D", str(data), *chosen]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/")
    if site.subnet is not None:
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {site.subnet} trust\n")


def unprivileged() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root: the account to use then."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return pwd.getpwnam("postgres" if "postgres" in names else "nobody")


def run_as(user: pwd.struct_passwd | None) -> list[str]:
    """What lets a command run as ``user``; it works behind ``ip netns exec`` as well, which itself needs root."""
    if user is None:
        return []
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
