"""Servers that a test may kill, freeze and start again, always on the same port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tests.servers import free_port, program, run_as, unprivileged, wait_for


class Server:
    """A server process in a group of its own, always on the same port."""

    stop_signal = signal.SIGTERM

    def __init__(self, command: Sequence[str], port: int, *, host: str = "127.0.0.1", **options: Any) -> None:
        self.port = port
        self.host = host
        self._command = list(command)
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_blind(self) -> None:
        """Start it without a look at whether it can be reached."""
        self._process = self._spawn()

    def start(self) -> None:
        """Returns once it answers. A server that was killed may need several tries to start again."""
        self.start_blind()

        def ready() -> bool:
            if self._process is None or self._process.poll() is not None:
                self._process = self._spawn()
            return self.answers()

        wait_for(ready, what=self._command[0])

    def answers(self) -> bool:
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex((self.host, self.port)) == 0

    def kill(self) -> None:
        """SIGKILL; PostgreSQL's sessions end when they notice."""
        self._signal(signal.SIGKILL)
        self._ended()

    def stop(self) -> None:
        """In order, frozen or not; no error where it does not run."""
        if self._process is not None:
            self.thaw()
            self._process.send_signal(self.stop_signal)
            self._ended()

    def freeze(self) -> None:
        """The kernel still accepts connections and takes bytes; nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _spawn(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0, **self._options
        )

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def _ended(self) -> None:
        assert self._process is not None
        self._process.wait()
        self._process = None


class RedisServer(Server):
    """Redis on a given port. ``keeps``: its data survive a kill, in an append-only file."""

    def __init__(
        self,
        port: int,
        folder: Path,
        *,
        keeps: bool = False,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
        more: Sequence[str] = (),
    ) -> None:
        # Ten thousand numbered databases: each test takes its own.
        options = ["--bind", host, "--databases", "10000", "--save", "", "--dir", str(folder), "--protected-mode", "no"]
        persistence = ["--appendonly", "yes" if keeps else "no", "--appendfsync", "always"]
        command = [*prefix, program("redis-server"), "--port", str(port), *options, *persistence, *more]
        super().__init__(command, port, host=host)
        self.url = f"redis://{host}:{port}/0"


class PostgresServer(Server):
    """PostgreSQL with a new, empty cluster below ``folder``. ``durable``: it syncs its files, as in earnest."""

    stop_signal = signal.SIGINT  # fast shutdown: open connections are closed

    def __init__(self, folder: Path, *, durable: bool = False, password: str | None = None) -> None:
        user = unprivileged()
        data, port = folder / "data", free_port()
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        secret = folder / "password"
        secret.write_text(password or "unused")
        secret.chmod(0o644)
        asked = ["-A", "trust"] if password is None else ["-A", "scram-sha-256", f"--pwfile={secret}"]
        options = ["-U", "clead", *asked, "-N", "--encoding=UTF8", "--locale=C"]
        initdb = [*run_as(user), program("initdb"), "-D", str(data), *options]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/")
        # The socket stays in the folder.
        command = [
            *run_as(user),
            program("postgres"),
            "-D",
            str(data),
            "-p",
            str(port),
            "-h",
            "127.0.0.1",
            "-k",
            str(folder),
        ]
        super().__init__([*command, *([] if durable else ["-F"])], port, cwd="/")
        self.url = f"postgresql+psycopg://clead{'' if password is None else f':{password}'}@127.0.0.1:{port}"
        """Without a database name."""

    def answers(self) -> bool:
        """It listens, and refuses, before its recovery has ended."""
        return subprocess.run([program("pg_isready"), "-q", "-h", self.host, "-p", str(self.port)]).returncode == 0


@contextmanager
def postgres_folder() -> Iterator[Path]:
    """A folder that PostgreSQL's own account can reach."""
    with tempfile.TemporaryDirectory(prefix="clead-postgres-") as folder:
        yield Path(folder)
