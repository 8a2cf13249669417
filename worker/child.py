"""The process that does one job and owns the device while it does. Started by :mod:`worker.supervisor`.

stdin: the task as one JSON line, then commands (``stop``); its end means that the worker is gone. stdout: events as
JSON lines: ``progress``, ``metrics``, ``memory``, ``checkpoint``, and last ``done``, ``stopped`` or ``error`` with a
problem. stderr: the log as JSON lines, which the supervisor writes into its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
from typing import Any

from app import logs
from models.progress import Stopped
from worker.pipe import Pipe

PR_SET_PDEATHSIG = 1

log = logging.getLogger("worker.child")


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent dies, where it can (Linux); stdin's end does it elsewhere."""
    if sys.platform == "linux":
        # No libc that answers: the end of stdin remains.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def problem(error: BaseException) -> dict[str, Any]:
    """The job's error, in words for its owner. The traceback is for the log."""
    from torch import OutOfMemoryError

    title = type(error).__name__.removesuffix("Error") or "Error"
    titles = {"Data": "The data cannot be used", "Diverged": "The training diverged"}
    detail = str(error).strip() or f"{type(error).__name__} without a message"
    if isinstance(error, OutOfMemoryError | MemoryError):
        title = "Out of memory"
        detail = f"the job does not fit into memory ({detail.splitlines()[0]}); a smaller batch or network does"
    return {"type": "about:blank", "title": titles.get(title, title), "detail": detail[:2000]}


def main(log_level: str) -> int:
    """Do the job that stdin names. The exit status is 0 when an event has told how it ended."""
    die_with_parent()
    logs.configure("json", level=log_level)
    pipe = Pipe()
    fields = pipe.receive_task()
    try:
        from worker.runs import Task, run

        run(Task.parse(fields), pipe)
    except Stopped:
        pipe.send("stopped")
    except Exception as error:  # whatever it was, the job's owner is told and the worker lives on
        log.exception("the job failed")
        pipe.send("error", error=problem(error))
    else:
        pipe.send("done")
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stderr.flush()
    # Libraries' threads and device teardown have nothing left to do; a hang there must not hold the worker.
    os._exit(status)
