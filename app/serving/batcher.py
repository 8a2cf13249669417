"""Requests that arrive together share a forward pass; no more wait than fit a bounded queue."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from app.errors import OverloadedError
from app.serving.metrics import InferenceMetrics

log = logging.getLogger(__name__)

Forward = Callable[[Tensor], Tensor]
"""uint8 images (N, C, H, W) → float32 rows (N, K)."""


@dataclass
class _Request:
    key: Hashable
    forward: Forward
    images: Tensor
    answer: Future[Tensor] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """One inference thread for one device.

    Requests of the same key (a model version and what is asked of it) are joined until ``max_images`` are together
    or the oldest has waited ``wait_seconds``. The room is counted in images, from admission to answer.
    """

    def __init__(
        self, *, max_images: int, queue_max_images: int, wait_seconds: float, metrics: InferenceMetrics | None = None
    ) -> None:
        self._metrics = metrics or InferenceMetrics()
        self._max_images = max_images
        self._queue_max_images = queue_max_images
        self._wait_seconds = wait_seconds
        self._changed = threading.Condition()
        self._waiting: deque[_Request] = deque()
        self._admitted = 0
        self._images_per_second = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    @property
    def admitted(self) -> int:
        """Images admitted and not yet answered."""
        return self._admitted

    @contextmanager
    def admit(self, count: int) -> Iterator[None]:
        """Hold room for ``count`` images while they are decoded and answered.

        Raises :class:`OverloadedError` when the room is taken; an idle service takes any single request.
        """
        with self._changed:
            if self._admitted and self._admitted + count > self._queue_max_images:
                raise OverloadedError(
                    f"{self._admitted} images are being answered, and {self._queue_max_images} fit the queue",
                    retry_after=self._seconds_to_drain(),
                )
            self._admitted += count
        try:
            yield
        finally:
            with self._changed:
                self._admitted -= count

    def submit(self, key: Hashable, images: Tensor, *, forward: Forward) -> Future[Tensor]:
        """The rows of ``forward`` for ``images`` uint8 (N, C, H, W), in their order, once their turn has come."""
        request = _Request(key, forward, images)
        with self._changed:
            if self._closed:
                raise OverloadedError("the service is stopping", retry_after=1)
            self._waiting.append(request)
            self._changed.notify()
        return request.answer

    def close(self) -> None:
        """Answer what waits, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _seconds_to_drain(self) -> int:
        if self._images_per_second <= 0:
            return 1
        return max(1, min(60, round(self._admitted / self._images_per_second)))

    def _run(self) -> None:
        while batch := self._next_batch():
            self._answer(batch)

    def _next_batch(self) -> list[_Request]:
        """The oldest request and those that join it; empty once closed and nothing waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            oldest = self._waiting[0]
            deadline = oldest.arrived + self._wait_seconds
            while not self._closed and self._together(oldest.key) < self._max_images:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            return self._take(oldest.key)

    def _together(self, key: Hashable) -> int:
        return sum(len(request.images) for request in self._waiting if request.key == key)

    def _take(self, key: Hashable) -> list[_Request]:
        batch: list[_Request] = []
        left: deque[_Request] = deque()
        images = 0
        for request in self._waiting:
            if request.key == key and (not batch or images + len(request.images) <= self._max_images):
                batch.append(request)
                images += len(request.images)
            else:
                left.append(request)
        self._waiting = left
        return batch

    def _answer(self, batch: list[_Request]) -> None:
        # A client that went away has cancelled its future.
        batch = [request for request in batch if request.answer.set_running_or_notify_cancel()]
        if not batch:
            return
        began = time.monotonic()
        for request in batch:
            self._metrics.wait_seconds.observe(began - request.arrived)
        try:
            images = torch.cat([request.images for request in batch])
            forward = batch[0].forward
            rows = torch.cat([self._timed(forward, part) for part in torch.split(images, self._max_images)])
        except Exception as error:
            # The thread serves every later request too: this batch's callers get the error, the thread goes on.
            log.exception("a forward pass of %d requests failed", len(batch))
            for request in batch:
                request.answer.set_exception(error)
            return
        sizes = [len(request.images) for request in batch]
        self._images_per_second = len(images) / max(time.monotonic() - began, 1e-6)
        for request, answer in zip(batch, torch.split(rows, sizes), strict=True):
            request.answer.set_result(answer)

    def _timed(self, forward: Forward, images: Tensor) -> Tensor:
        self._metrics.batch_images.observe(len(images))
        with self._metrics.forward_seconds.time():
            return forward(images)
