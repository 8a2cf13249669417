"""Waiting for a database or a storage that is away: hours of work may hang on one write."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.exc import OperationalError

from app.file_systems import StorageError
from worker.context import Worker

log = logging.getLogger(__name__)

T = TypeVar("T")
PATIENCE_SECONDS = 3600.0


def patiently(worker: Worker, work: Callable[[], T], *, give_up: Callable[[], bool] = lambda: False) -> T:
    """``work()``, tried again while database or storage are away; a deadlock or a late lock is worth another try, too.

    Raises the last error after an hour, once a stopping worker's grace is over, and when ``give_up()``.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return work()
        except (OperationalError, StorageError) as error:
            if give_up() or worker.grace_is_over() or time.monotonic() > deadline:
                raise
            log.warning("waiting for %s: %s", *_told(error))
        time.sleep(worker.settings.heartbeat_seconds)


def _told(error: OperationalError | StorageError) -> tuple[str, object]:
    return ("the storage", error.detail) if isinstance(error, StorageError) else ("the database", error.orig)
