"""Keeps a claim's lease while a job runs, and carries its progress and metrics to the database on the way."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextvars import copy_context
from types import TracebackType
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from app.services import claims
from app.services.claims import Claim, Point
from worker.context import Worker

log = logging.getLogger(__name__)


class LeaseKeeper:
    """A thread that renews the lease every ``heartbeat_seconds`` for as long as the ``with`` block lasts.

    ``lost``: another worker may have the job now; stop, and write nothing. ``cancelled``: a client wants it to stop.
    """

    def __init__(self, worker: Worker, claim: Claim) -> None:
        self._worker = worker
        self._claim = claim
        self._lock = threading.Lock()
        self._progress: dict[str, Any] | None = None
        self._points: list[Point] = []
        self._renewed = time.monotonic()
        self._end = threading.Event()
        self.lost = False
        self.cancelled = False
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name=f"lease-{claim.job_id}", daemon=True
        )

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def progress(self, values: Mapping[str, Any]) -> None:
        """Progress to write with the next heartbeat; the latest counts."""
        with self._lock:
            self._progress = dict(values)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Points to write with the next heartbeat."""
        with self._lock:
            self._points += [Point(series, step, value) for series, value in values.items()]

    def flush(self) -> None:
        """Write what waits now; called before the job is finished, so that its last metrics are there."""
        self._beat()

    def _run(self) -> None:
        while not self._end.wait(self._worker.settings.heartbeat_seconds):
            self._beat()

    def _beat(self) -> None:
        with self._lock:
            progress, points = self._progress, self._points
            self._progress, self._points = None, []
        lease_seconds = self._worker.settings.lease_seconds
        try:
            with self._worker.database.writing() as session:
                lease = claims.renew(
                    session, self._claim, lease_seconds=lease_seconds, progress=progress, metrics=points
                )
                # The block may end a moment after the job has: a lease that is done with is not lost.
                over = not lease.held and claims.succeeded(session, self._claim)
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", error)
            log.warning("job %s: the lease could not be renewed (%s)", self._claim.job_id, cause)
            self._worker.metrics.renewals_failed.inc()
            self._put_back(progress, points)
            # Without an answer for this long the database may have given the job to another worker.
            if time.monotonic() - self._renewed > lease_seconds:
                self._lose()
            return
        self._renewed = time.monotonic()
        if over:
            self._end.set()
        elif not lease.held:
            self._lose()
        elif lease.cancel:
            self.cancelled = True

    def _put_back(self, progress: dict[str, Any] | None, points: list[Point]) -> None:
        with self._lock:
            self._progress = self._progress or progress
            self._points = points + self._points

    def _lose(self) -> None:
        if not self.lost:
            log.warning("job %s: attempt %d lost its lease", self._claim.job_id, self._claim.attempt)
            self._worker.metrics.leases_lost.inc()
        self.lost = True
