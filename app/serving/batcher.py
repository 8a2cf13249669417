"""Requests that arrive together share a forward pass; no more wait than fit a bounded queue."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
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
PLACE = 3 * 224 * 224
"""Values (C · H · W) of an image that takes one place of a queue or of a forward pass; a larger one takes several."""


def places_of(image_shape: Sequence[int]) -> int:
    """Places that one image (C, H, W) takes, so that the limits in images also bound the memory."""
    return max(1, math.ceil(math.prod(image_shape) / PLACE))


@dataclass
class _Request:
    key: Hashable
    forward: Forward
    images: Tensor
    answer: Future[Tensor] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    places: int = field(init=False)

    def __post_init__(self) -> None:
        self.places = len(self.images) * places_of(self.images.shape[1:])


class Batcher:
    """One inference thread for one device.

    Requests of the same key (a model version and what is asked of it) are joined until ``max_images`` are together
    or the oldest has waited ``wait_seconds``. The room is held from admission to answer. Both are counted in places:
    an image of more than :data:`PLACE` values counts as several.
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
        self._places_per_second = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    @property
    def admitted(self) -> int:
        """Places of images admitted and not yet answered."""
        return self._admitted

    def require_room(self, places: int = 1) -> None:
        """Raise :class:`OverloadedError` when so many are not free; an idle service takes any single request."""
        if self._admitted and self._admitted + places > self._queue_max_images:
            raise OverloadedError(
                f"the queue has {self._queue_max_images} places, and {self._admitted} are taken",
                retry_after=self._seconds_to_drain(),
            )

    @contextmanager
    def admit(self, places: int) -> Iterator[None]:
        """Hold room for images while they are decoded and answered; OverloadedError as :meth:`require_room`."""
        with self._changed:
            self.require_room(places)
            self._admitted += places
        try:
            yield
        finally:
            with self._changed:
                self._admitted -= places

    def submit(self, key: Hashable, images: Tensor, *, forward: Forward) -> Future[Tensor]:
        """The rows of ``forward`` for ``images`` uint8 (N, C, H, W), in their order, once their turn has come.

        A request whose future is cancelled leaves the queue.
        """
        request = _Request(key, forward, images)
        request.answer.add_done_callback(self._forget_cancelled)
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

    def _forget_cancelled(self, answer: Future[Tensor]) -> None:
        if answer.cancelled():
            with self._changed:
                self._waiting = deque(request for request in self._waiting if request.answer is not answer)

    def _seconds_to_drain(self) -> int:
        if self._places_per_second <= 0:
            return 1
        return max(1, min(60, round(self._admitted / self._places_per_second)))

    def _run(self) -> None:
        while batch := self._next_batch():
            self._answer(batch)

    def _next_batch(self) -> list[_Request]:
        """The oldest request and those that join it; empty once closed and nothing waits."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return []
                oldest = self._waiting[0]
                left = oldest.arrived + self._wait_seconds - time.monotonic()
                if self._closed or left <= 0 or self._together(oldest.key) >= self._max_images:
                    return self._take(oldest.key)
                self._changed.wait(left)

    def _together(self, key: Hashable) -> int:
        return sum(request.places for request in self._waiting if request.key == key)

    def _take(self, key: Hashable) -> list[_Request]:
        batch: list[_Request] = []
        left: deque[_Request] = deque()
        places = 0
        for request in self._waiting:
            if request.key == key and (not batch or places + request.places <= self._max_images):
                batch.append(request)
                places += request.places
            else:
                left.append(request)
        self._waiting = left
        return batch

    def _answer(self, batch: list[_Request]) -> None:
        # Whoever has cancelled its future since it was taken wants no answer.
        batch = [request for request in batch if request.answer.set_running_or_notify_cancel()]
        if not batch:
            return
        began = time.monotonic()
        for request in batch:
            self._metrics.wait_seconds.observe(began - request.arrived)
        try:
            images = torch.cat([request.images for request in batch])
            forward = batch[0].forward
            together = max(1, self._max_images // places_of(images.shape[1:]))
            rows = torch.cat([self._timed(forward, part) for part in torch.split(images, together)])
        except Exception as error:
            # The thread serves every later request too: this batch's callers get the error, the thread goes on.
            log.exception("a forward pass of %d requests failed", len(batch))
            for request in batch:
                request.answer.set_exception(error)
            return
        sizes = [len(request.images) for request in batch]
        self._places_per_second = sum(request.places for request in batch) / max(time.monotonic() - began, 1e-6)
        for request, answer in zip(batch, torch.split(rows, sizes), strict=True):
            request.answer.set_result(answer)

    def _timed(self, forward: Forward, images: Tensor) -> Tensor:
        self._metrics.batch_images.observe(len(images))
        with self._metrics.forward_seconds.time():
            return forward(images)
