"""The child's end of the pipes: events out as JSON lines, commands in."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

PROGRESS_SECONDS = 0.1
MEMORY_SECONDS = 1.0


class Pipe:
    """Sends events to the supervisor and hears its commands. Also a :class:`models.progress.Reporter`.

    Takes stdout for itself: whatever a library prints goes to stderr, which the supervisor logs.
    """

    def __init__(self) -> None:
        sys.stdout.flush()
        self._out: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._shown_at = -math.inf
        self._stage: tuple[str, str] | None = None
        self._weighed_at = -math.inf

    def receive_task(self) -> dict[str, Any]:
        """The first line; from then on commands are heard, and the end of stdin ends this process."""
        line = sys.stdin.readline()
        if not line:
            os._exit(1)
        # A service manager may send SIGTERM to all of the worker's processes: that, too, means save and stop.
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        signal.signal(signal.SIGINT, lambda *_: self._stop.set())
        threading.Thread(target=self._listen, name="commands", daemon=True).start()
        task: dict[str, Any] = json.loads(line)
        return task

    def _listen(self) -> None:
        for line in sys.stdin:
            if line.strip() == "stop":
                self._stop.set()
        # The worker is gone: nobody would take what this process makes.
        os._exit(1)

    def send(self, event: str, **fields: Any) -> None:
        """Send one event."""
        line = json.dumps({"event": event, **fields}, allow_nan=False)
        with self._lock:
            try:
                self._out.write(line + "\n")
                self._out.flush()
            except BrokenPipeError:
                os._exit(1)

    def progress(self, done: int, total: int, /, *, unit: str, stage: str) -> None:
        """At most ten a second, the first and the last of each stage always."""
        now = time.monotonic()
        if (stage, unit) == self._stage and done < total and now - self._shown_at < PROGRESS_SECONDS:
            return
        self._stage, self._shown_at = (stage, unit), now
        self.send("progress", progress={"done": done, "total": total, "unit": unit, "stage": stage})
        if now - self._weighed_at >= MEMORY_SECONDS:
            self._weighed_at = now
            self._send_memory()

    def _send_memory(self) -> None:
        """The devices' memory, which this process alone can tell without taking some of its own."""
        from models.device_memory import cuda_memory  # torch is there by now; a child that only waits needs none

        if devices := cuda_memory():
            self.send("memory", devices=devices)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        self.send("metrics", step=step, values=finite)

    def checkpoint(self, path: Path, step: int) -> None:
        self.send("checkpoint", path=str(path), step=step)

    def should_stop(self) -> bool:
        return self._stop.is_set()
