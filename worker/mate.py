"""A further process of a training on several devices. Started by :mod:`worker.crew`, with the task on stdin.

It reports nothing: the first process does. stderr: its log, which goes the way of the first's.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from app import logs
from models.progress import Silent, Stopped
from worker.child import problem
from worker.limits import die_with_parent, go_first

log = logging.getLogger("worker.mate")


def main(rank: int) -> int:
    """Train beside the first process; the exit status is 0 unless it was this process that failed."""
    die_with_parent()
    go_first()
    # Whether all should stop is the first process's to hear and to say.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure("json", level="WARNING")
    line = sys.stdin.readline()
    if not line:
        return 1
    threading.Thread(target=_end_with_the_first, name="first", daemon=True).start()
    fields = json.loads(line)
    from worker.crew import last_words, meeting, own_device
    from worker.runs import train_as
    from worker.task import Task

    try:
        task = Task.parse(fields)
        device = own_device(task, rank=rank)
        dataset = task.dataset(Silent())
        with meeting(task, device, rank=rank):
            train_as(task, dataset, Silent(), device=device)
    except Stopped:
        return 0
    except Exception as error:  # the first process tells the job's owner
        log.exception("process %d of the job failed", rank)
        last_words(Path(fields["folder"]), rank).write_text(problem(error)["detail"], encoding="utf-8")
        return 1
    return 0


def _end_with_the_first() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    status = main(int(sys.argv[1]))
    sys.stderr.flush()
    os._exit(status)  # as worker.child does, and for the same reasons
