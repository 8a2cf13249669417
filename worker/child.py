"""The process that does one job and owns the device while it does. Started by :mod:`worker.supervisor`.

stdin: the task as one JSON line, then commands (``stop``); its end means that the worker is gone. stdout: events as
JSON lines: ``progress``, ``metrics``, ``memory``, ``checkpoint``, and last ``done``, ``stopped`` or ``error`` with a
problem. stderr: the log as JSON lines, which the supervisor writes into its own.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from app import logs
from app.file_systems import DISK_FULL
from models.progress import Stopped
from worker.limits import die_with_parent, go_first, limit_memory
from worker.pipe import Pipe

log = logging.getLogger("worker.child")


def problem(error: BaseException) -> dict[str, Any]:
    """The job's error, in words for its owner. The traceback is for the log."""
    title = type(error).__name__.removesuffix("Error") or "Error"
    titles = {"Data": "The data cannot be used", "Diverged": "The training diverged"}
    detail = str(error).strip() or f"{type(error).__name__} without a message"
    if is_out_of_memory(error):
        title = "Out of memory"
        detail = f"the job does not fit into memory ({detail.splitlines()[0]}); a smaller batch or network does"
    elif is_disk_full(error):
        title = "Disk full"
        detail = f"the disk is full ({detail})"
    return {"type": "about:blank", "title": titles.get(title, title), "detail": detail[:2000]}


def is_out_of_memory(error: BaseException) -> bool:
    """Of the device or of the machine. torch says the latter with a plain RuntimeError."""
    from torch import OutOfMemoryError

    return isinstance(error, OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _another_attempt_may_do(error: BaseException) -> bool:
    from torch import AcceleratorError

    from models.data.download import DownloadError
    from models.precision import DeviceError
    from worker.crew import LostProcessError

    passing = LostProcessError | AcceleratorError | DeviceError | DownloadError
    return is_out_of_memory(error) or is_disk_full(error) or isinstance(error, passing)


def is_disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in DISK_FULL


def main(log_level: str) -> int:
    """Do the job that stdin names. The exit status is 0 when an event has told how it ended."""
    die_with_parent()
    go_first()
    logs.configure("json", level=log_level)
    pipe = Pipe()
    fields = pipe.receive_task()
    try:
        from worker.runs import run
        from worker.task import Task

        limit_memory(fields.pop("memory_bytes"))
        run(Task.parse(fields), pipe)
    except Stopped:
        pipe.send("stopped")
    except Exception as error:  # whatever it was, the job's owner is told and the worker lives on
        log.exception("the job failed")
        # The machine's want is not the job's fault: another attempt, or another worker, may have more.
        pipe.send("error", error=problem(error), again=_another_attempt_may_do(error))
    else:
        pipe.send("done")
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1])
    sys.stderr.flush()
    # Libraries' threads and device teardown have nothing left to do; a hang there must not hold the worker.
    os._exit(status)
