"""The worker process: a Celery consumer with one thread for one job at a time, and a reaper beside it."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

from celery import signals

from app.queue import QUEUES
from app.settings import Settings
from worker import tasks
from worker.context import Worker
from worker.folders import sweep
from worker.reaper import Reaper

log = logging.getLogger(__name__)


def run_worker(settings: Settings, *, queues: Sequence[str] = QUEUES, embedded: bool = False) -> None:
    """Serve ``queues`` until SIGTERM or SIGINT; the running job then saves a checkpoint and is handed back.

    ``embedded``: also stop when stdin ends, which it does when the process that started this one is gone.
    Call it from the main thread: signals arrive there.
    """
    worker = Worker.open(settings, queues=tuple(queues))
    for folder in sweep(settings.work_dir):
        log.info("removed %s, left by a worker that was killed", folder.name)
    tasks.register(worker)
    reaper = Reaper(worker)

    def begin_stop(**_: object) -> None:
        worker.stopping.set()

    def begin_work(**_: object) -> None:
        reaper.start()
        if embedded:
            threading.Thread(target=_stop_at_end_of_input, name="parent-watcher", daemon=True).start()
        log.info("worker %s serves %s", worker.id, ", ".join(worker.queues))

    # Celery keeps weak references to receivers: these two live as long as this frame.
    signals.worker_shutting_down.connect(begin_stop)
    signals.worker_ready.connect(begin_work)
    consumer = worker.celery.Worker(
        queues=list(queues),
        hostname=f"clead@{worker.id}",
        pool="threads",
        concurrency=1,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        optimization="fair",
        quiet=True,
        loglevel=settings.log_level.upper(),
    )
    try:
        consumer.start()
    finally:
        worker.stopping.set()
        reaper.stop()
        worker.database.close()


def _stop_at_end_of_input() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    log.info("the process that started this worker is gone; stopping")
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> int:
    """Settings come from the environment."""
    parser = argparse.ArgumentParser(prog="python -m worker.main", description="Run jobs.")
    parser.add_argument("--queues", default=",".join(QUEUES), help="queues to serve, separated by commas")
    parser.add_argument("--embedded", action="store_true", help="stop when stdin ends")
    options = parser.parse_args(arguments)
    queues = [name.strip() for name in options.queues.split(",") if name.strip()]
    unknown = sorted(set(queues) - set(QUEUES))
    if unknown or not queues:
        parser.error(f"unknown queue {', '.join(unknown)}; there are {', '.join(QUEUES)}")
    settings = Settings()
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    run_worker(settings, queues=queues, embedded=options.embedded)
    return 0


if __name__ == "__main__":
    sys.exit(main())
