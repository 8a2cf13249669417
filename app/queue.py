"""Messages to the workers: each carries a job's id and nothing else, and may be lost: the database is the truth."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from kombu.exceptions import OperationalError

from app.settings import Settings

TASK = "clead.run_job"
QUEUES = ("train", "evaluate")
CONNECT_SECONDS = 1.0
PUBLISH_SECONDS = 0.8
"""Longest that a request waits for the broker; it answers within a second, whatever the broker does."""
SILENCE_SECONDS = 2.0
"""A broker that did not answer is not asked again for this long: threads that wait for it must not pile up."""

_TROUBLE = (OperationalError, OSError, FutureTimeoutError)

log = logging.getLogger(__name__)


class Application(Celery):  # type: ignore[misc]
    """Celery's, which also remembers until when (monotonic) the broker is taken to be away."""

    silent_until = 0.0


def create_celery(settings: Settings) -> Application:
    """The Celery application of both sides: publishing here, consuming in the worker."""
    scheme = urlsplit(settings.broker_url).scheme
    folder = scheme == "filesystem"
    url = "filesystem://localhost" if folder else settings.broker_url
    celery = Application("clead", broker=url, set_as_current=False)
    celery.conf.update(
        broker_transport="app.folder_broker:Transport" if folder else None,
        broker_transport_options=_transport_options(settings, scheme),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_acks_late=True,
        # A job whose worker died is taken up again by the reaper, after its lease; the broker must not decide.
        task_reject_on_worker_lost=False,
        task_create_missing_queues=True,
        worker_prefetch_multiplier=1,
        worker_concurrency=1,
        worker_pool="threads",
        worker_enable_remote_control=False,
        # For Flower. Redis hands them to whoever listens and keeps none; the folder would keep them.
        worker_send_task_events=not folder,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    return celery


def _transport_options(settings: Settings, scheme: str) -> dict[str, Any]:
    if scheme == "filesystem":
        root = broker_folder(settings)
        for name in ("messages", "control"):
            (root / name).mkdir(parents=True, exist_ok=True)
        messages = str(root / "messages")
        return {
            "data_folder_in": messages,
            "data_folder_out": messages,
            "control_folder": str(root / "control"),
            "polling_interval": 0.1,
        }
    if scheme in ("redis", "rediss"):
        # Redis hands a message out again after this long; a repeat is dropped at the claim, but need not be sent.
        visibility = max(24 * 3600.0, settings.lease_seconds * 2)
        return {
            "visibility_timeout": visibility,
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": 10.0,
            "max_retries": 0,
            # A connection that was cut off without a word is noticed, and made again, within half a minute.
            "health_check_interval": 10,
            "socket_keepalive": True,
            "socket_keepalive_options": _keepalive(),
        }
    return {}


def _keepalive() -> dict[int, int]:
    """Seconds of silence before the kernel asks whether the other end lives, between its questions; their number."""
    wanted = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def broker_folder(settings: Settings) -> Path:
    """The folder of the ``filesystem://`` broker."""
    return Path(settings.broker_url.removeprefix("filesystem://"))


def publish(celery: Application, job_id: str, *, queue: str) -> bool:
    """Tell the workers of ``queue`` about a committed job, in less than a second.

    False, with a warning in the log, if the broker cannot be reached: an idle worker's reaper will find the job.
    """
    if time.monotonic() < celery.silent_until:
        log.warning("job %s waits for the reaper: the broker was away a moment ago", job_id)
        return False
    try:
        _in_time(_send, celery, job_id, queue)
    except _TROUBLE as error:
        celery.silent_until = time.monotonic() + SILENCE_SECONDS
        log.warning("job %s waits for the reaper: the broker cannot be reached (%s)", job_id, error or "timeout")
        return False
    return True


def broker_reachable(celery: Celery) -> bool:
    """Whether the broker answers now, asked for less than a second."""
    try:
        _in_time(_connect, celery)
    except _TROUBLE:
        return False
    return True


def _in_time(call: Callable[..., None], *arguments: object) -> None:
    """Make the call, and give it up after ``PUBLISH_SECONDS``.

    In a thread, because no option of a broker's client bounds a name look-up or a server that accepts and says nothing.
    A daemon, because the process may end while it still waits.
    """
    outcome: Future[None] = Future()

    def work() -> None:
        try:
            call(*arguments)
        except BaseException as error:  # raised again where the result is asked for
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    threading.Thread(target=work, name="broker", daemon=True).start()
    outcome.result(PUBLISH_SECONDS)


def _send(celery: Celery, job_id: str, queue: str) -> None:
    with celery.producer_or_acquire() as producer:
        connection = producer.connection
        try:
            celery.send_task(TASK, args=[job_id], queue=queue, producer=producer, retry=False, ignore_result=True)
        except (*connection.connection_errors, *connection.channel_errors) as error:
            raise OperationalError(str(error)) from error


def _connect(celery: Celery) -> None:
    with celery.connection_for_write() as connection:
        try:
            connection.ensure_connection(max_retries=1, timeout=CONNECT_SECONDS)
        except (*connection.connection_errors, *connection.channel_errors) as error:
            raise OperationalError(str(error)) from error
