"""Time spent in one part of a computation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """``seconds`` adds up over the blocks run under :meth:`running`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Count the block's time, the work that it queued on ``device`` included."""
        _finish_queued(device)
        start = time.perf_counter()
        try:
            yield
        finally:
            _finish_queued(device)
            self.seconds += time.perf_counter() - start


def _finish_queued(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
