"""Runs one child process and listens to it. The child owns the device; it may die without harm to the worker."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from contextvars import copy_context
from typing import IO, Any

from app import logs

log = logging.getLogger(__name__)

# glibc gives freed memory back to the system and fetches it again for the next layer's result; see docs/decisions/0014.
KEEP_FREED_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**30)}
TAIL_LINES = 20
STOP_GRACE_EXIT = 5.0


class Child:
    """A spawned ``python -m worker.child`` in a process group of its own, with pipes for commands and events.

    It ends when its stdin does: a worker that is killed takes its child with it.
    """

    def __init__(self, task: dict[str, Any], *, name: str) -> None:
        self._name = name
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.exited = threading.Event()
        """Set once it sends no more events: it has ended, or is about to."""
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker.child", logging.getLevelName(logging.getLogger().level)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=KEEP_FREED_MEMORY | os.environ,
            process_group=0,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self._readers = [
            threading.Thread(target=copy_context().run, args=(read, stream), daemon=True)
            for read, stream in ((self._read_events, self._process.stdout), (self._read_log, self._process.stderr))
        ]
        for reader in self._readers:
            reader.start()
        self._send(json.dumps(task))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def tail(self) -> str:
        """The last lines that it wrote to stderr."""
        return "\n".join(self._tail)

    def next_event(self, *, timeout: float) -> dict[str, Any] | None:
        """The next event within ``timeout`` seconds. None: nothing came. ``{"event": "exited"}``: it has ended."""
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        return {"event": "exited"} if event is None else event

    def stop(self) -> None:
        """Ask it to save a checkpoint and end."""
        self._send("stop")

    def kill(self) -> None:
        """End it and whatever it started, at once."""
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit status once it has ended; negative: the signal that killed it."""
        try:
            status = self._process.wait(STOP_GRACE_EXIT)
        except subprocess.TimeoutExpired:
            # Its work is over and its pipes are closed; nothing that it still does is wanted.
            self.kill()
            status = self._process.wait()
        for reader in self._readers:
            reader.join()
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        return status

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        # A child that is gone cannot be told anything; its exit status says why.
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _read_events(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                try:
                    event = json.loads(line)
                except ValueError:
                    # A line cut off by the child's death.
                    log.warning("%s: unreadable event %.200r", self._name, line)
                    continue
                self._events.put(event)
        self.exited.set()
        self._events.put(None)

    def _read_log(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                # Its log comes as records; whatever else it or a library writes is passed on line by line.
                record = logs.replay(line)
                if record is None:
                    self._tail.append(line.rstrip())
                    log.info("%s: %s", self._name, line.rstrip())
                else:
                    self._tail.extend(f"{record.msg}\n{record.exc_text or ''}".splitlines())
                    logging.getLogger(record.name).handle(record)


def death_cause(status: int, tail: str) -> str:
    """What a child's exit status and last words say about its death, in one line."""
    if status < 0:
        name = signal.Signals(-status).name if -status in signal.valid_signals() else f"signal {-status}"
        hint = ", as the system does when memory runs out" if -status == signal.SIGKILL else ""
        return f"the process was killed by {name}{hint}"
    last = next((line for line in reversed(tail.splitlines()) if line.strip()), "it wrote nothing")
    return f"the process ended with status {status}: {last[:500]}"
