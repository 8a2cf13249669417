"""Time spent in one part of a computation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """``seconds`` adds up over the blocks run under :meth:`running`.

    A GPU's are told by marks in its queue: waiting for it before and after every block would let it run dry.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @property
    def seconds(self) -> float:
        """Waits for the blocks so far."""
        for begin, end in self._marks:
            end.synchronize()
            self._seconds += begin.elapsed_time(end) / 1000
        self._marks.clear()
        return self._seconds

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Count the block's time, the work that it queued on ``device`` included."""
        if device.type == "cuda":
            begin = _marked(device)
            try:
                yield
            finally:
                self._marks.append((begin, _marked(device)))
            return
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - start


def _marked(device: torch.device) -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
