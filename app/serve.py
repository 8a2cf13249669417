"""`clead serve`: the API in this process and one worker beside it, on one machine, with nothing else to install."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import IO

import uvicorn

from app import logs
from app.api.request_log import access_log
from app.main import create_app
from app.records.session import Database
from app.services import tokens
from app.settings import DEVICE_ADVICE, Settings, secret_files
from migrations import NewerSchemaError, upgrade
from models.precision import DeviceError, pick_device

log = logging.getLogger(__name__)

HANDING_BACK_SECONDS = 15.0
"""What a worker may take, after its job's own time to stop, to hand the job back before it is killed."""


class ServeError(Exception):
    """The service cannot start; the text says why and what to do."""


def serve(settings: Settings, *, on_ready: Callable[[str], None]) -> None:
    """Migrate, start the API and one worker, and run until SIGINT or SIGTERM.

    ``on_ready`` is called with the address once connections are accepted. Raises :class:`ServeError`
    if the port or the home folder is taken, or the device is not there.
    """
    settings = _configure_logs(settings)
    try:
        pick_device(settings.device)
    except DeviceError as error:
        raise ServeError(f"{error}; {DEVICE_ADVICE}") from None
    settings.home.mkdir(parents=True, exist_ok=True)
    with _exclusive(settings.home), _listen(settings.host, settings.port) as listener:
        try:
            upgrade(settings)
        except NewerSchemaError as error:
            raise ServeError(str(error)) from None
        _refuse_strangers(settings, listener)
        port = listener.getsockname()[1]
        settings = settings.model_copy(update={"port": port})
        config = uvicorn.Config(
            create_app(settings),
            log_config=None,
            timeout_graceful_shutdown=5,
        )
        server = _Server(config, on_started=lambda: on_ready(f"http://{_printable(settings.host)}:{port}"))
        # uvicorn shuts down at SIGINT and SIGTERM and then raises the signal again, for whoever started it. Here that
        # must not end the process: the worker is still to be stopped in order.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with _worker(settings), suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def _configure_logs(settings: Settings) -> Settings:
    """Text unless something else is asked for: this is the command of a person at a console.

    Requests are logged from ``debug`` on, and those that fail inside: the open page asks again and again.
    """
    if settings.log_format == "auto":
        settings = settings.model_copy(update={"log_format": "text"})
    logs.configure(settings.log_format, level=settings.log_level, secrets=settings.secrets)
    if settings.log_level != "debug":
        access_log.setLevel(logging.ERROR)
    return settings


class _Server(uvicorn.Server):
    """uvicorn, with a call when it accepts connections."""

    def __init__(self, config: uvicorn.Config, *, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._on_started()


@contextmanager
def _exclusive(home: Path) -> Iterator[None]:
    """Hold the home folder's lock: two services on one SQLite home would run each other's jobs."""
    with (home / "serve.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServeError(f"another `clead serve` is running on {home}; stop it or set CLEAD_HOME") from None
        yield


@contextmanager
def _listen(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ServeError(f"cannot listen on {host}:{port}: {error.strerror}") from None
            raise ServeError(f"port {port} is taken; set CLEAD_PORT to another, or to 0 for any free one") from None
        yield listener


def _refuse_strangers(settings: Settings, listener: socket.socket) -> None:
    """Without tokens the service answers whoever reaches it, so only this machine may."""
    if ip_address(listener.getsockname()[0]).is_loopback:
        return
    database = Database(settings.database_url)
    try:
        with database.session() as session:
            protected = tokens.required(session)
    finally:
        database.close()
    if not protected:
        raise ServeError(
            f"there is no API token yet, and without one the service listens on loopback only, not on {settings.host}; "
            "make one with `clead token create --name me --scope admin`, or leave CLEAD_HOST at 127.0.0.1"
        )


@contextmanager
def _worker(settings: Settings) -> Iterator[None]:
    """One worker process for as long as the block lasts, started again if it dies."""
    stopping = threading.Event()
    current: list[subprocess.Popen[bytes]] = [_start_worker(settings)]

    def keep_alive() -> None:
        while True:
            started = time.monotonic()
            code = current[0].wait()
            if stopping.is_set():
                return
            log.warning("the worker ended with status %s; starting it again", code)
            # A worker that cannot start at all must not spin; one that ran for a while starts again at once.
            if stopping.wait(max(0.0, 5.0 - (time.monotonic() - started))):
                return
            current[0] = _start_worker(settings)

    watcher = threading.Thread(target=keep_alive, name="worker-watcher", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stopping.set()
        _stop_worker(current[0], seconds=settings.stop_seconds + HANDING_BACK_SECONDS)
        watcher.join(timeout=10)


def _start_worker(settings: Settings) -> subprocess.Popen[bytes]:
    # Its own session: Ctrl-C in the terminal reaches this process alone, which then stops the worker in order.
    # Its stdin: should this process be killed, the worker reads the end of file and hands its job back.
    # What a file of CLEAD_SECRETS_DIR says the worker reads there itself: no environment should show it.
    environment = os.environ | {
        f"CLEAD_{name.upper()}": str(value)
        for name, value in settings.model_dump(mode="json", exclude={"secret_key", *secret_files()}).items()
        if value is not None and not isinstance(value, list | dict)
    }
    command = [sys.executable, "-m", "worker.main", "--embedded"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, start_new_session=True)


def _stop_worker(process: subprocess.Popen[bytes], *, seconds: float) -> None:
    stdin: IO[bytes] | None = process.stdin
    if stdin is not None:
        stdin.close()
    process.terminate()
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        log.warning("the worker did not stop within %.0f s; killed", seconds)
        process.kill()
        process.wait()


def _printable(host: str) -> str:
    if host in {"0.0.0.0", "::"}:
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
