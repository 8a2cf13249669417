"""Messages to the workers: each carries a job's id and nothing else, and may be lost: the database is the truth."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from kombu.exceptions import OperationalError

from app.settings import Settings

TASK = "clead.run_job"
QUEUES = ("train", "evaluate")
PUBLISH_SECONDS = 1.0

_TROUBLE = (OperationalError, OSError, FutureTimeoutError)

log = logging.getLogger(__name__)


def create_celery(settings: Settings) -> Celery:
    """The Celery application of both sides: publishing here, consuming in the worker."""
    scheme = urlsplit(settings.broker_url).scheme
    folder = scheme == "filesystem"
    celery = Celery("clead", broker="filesystem://localhost" if folder else settings.broker_url, set_as_current=False)
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
            "socket_connect_timeout": PUBLISH_SECONDS,
            "socket_timeout": 10.0,
            "max_retries": 0,
        }
    return {}


def broker_folder(settings: Settings) -> Path:
    """The folder of the ``filesystem://`` broker."""
    return Path(settings.broker_url.removeprefix("filesystem://"))


def publish(celery: Celery, job_id: str, *, queue: str) -> bool:
    """Tell the workers of ``queue`` about a committed job, within about a second.

    False, with a warning in the log, if the broker cannot be reached: an idle worker's reaper will find the job.
    """
    try:
        _in_time(_send, celery, job_id, queue)
    except _TROUBLE as error:
        log.warning("job %s waits for the reaper: the broker cannot be reached (%s)", job_id, error or "timeout")
        return False
    return True


def broker_reachable(celery: Celery) -> bool:
    """Whether the broker answers now, asked for a second at most."""
    try:
        _in_time(_connect, celery)
    except _TROUBLE:
        return False
    return True


def _in_time(call: Callable[..., None], *arguments: object) -> None:
    """Make the call, and give it up after a second.

    In a thread, because no option of a broker's client bounds a name look-up or a server that accepts and says nothing.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="broker")
    try:
        pool.submit(call, *arguments).result(PUBLISH_SECONDS)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


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
            connection.ensure_connection(max_retries=1, timeout=PUBLISH_SECONDS)
        except (*connection.connection_errors, *connection.channel_errors) as error:
            raise OperationalError(str(error)) from error
