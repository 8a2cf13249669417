"""The worker process: a Celery consumer with one thread for one job at a time, and a reaper beside it."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from celery import signals
from sqlalchemy.exc import OperationalError

from app import logs
from app.folders import sweep
from app.queue import QUEUES
from app.settings import Settings, settings_or_exit
from migrations import NewerSchemaError, refuse_newer
from worker import tasks
from worker.context import Worker
from worker.device import missing_device
from worker.leftovers import sweep_storage
from worker.reaper import Reaper

log = logging.getLogger("worker.main")  # also when it is the main module


def run_worker(settings: Settings, *, queues: Sequence[str] = QUEUES, embedded: bool = False) -> None:
    """Serve ``queues`` until SIGTERM or SIGINT; the running job then saves a checkpoint and is handed back.

    ``embedded``: also stop when stdin ends, which it does when the process that started this one is gone.
    Call it from the main thread: signals arrive there. Raises NewerSchemaError; SystemExit where the device is missing.
    """
    worker = Worker.open(settings, queues=tuple(queues))
    logs.configure(settings.log_format, level=settings.log_level, secrets=settings.secrets, worker=worker.id)
    if (reason := missing_device(settings.device)) is not None:
        log.critical("not starting: %s", reason)
        raise SystemExit(1)
    _refuse_newer_schema(worker)
    close_metrics = _serve_metrics(worker)
    for folder in [*sweep(settings.work_dir), *sweep(settings.arriving_dir)]:
        log.info("removed %s, left by a process that was killed", folder.name)
    sweep_storage(worker)
    tasks.register(worker)
    reaper = Reaper(worker)

    def begin_stop(**_: object) -> None:
        worker.stop()

    def begin_work(**_: object) -> None:
        log.info("worker %s serves %s", worker.id, ", ".join(worker.queues))

    def leave_logging_alone(**_: object) -> None:
        """Celery sets up no log of its own where somebody answers this signal."""

    # Celery keeps weak references to receivers: these live as long as this frame.
    signals.setup_logging.connect(leave_logging_alone)
    signals.worker_shutting_down.connect(begin_stop)
    signals.worker_ready.connect(begin_work)
    consumer = worker.celery.Worker(
        queues=list(queues),
        hostname=f"clead@{worker.id}",
        pool="threads",
        concurrency=1,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=not worker.celery.conf.worker_send_task_events,
        optimization="fair",
        quiet=True,
        loglevel=settings.log_level.upper(),
    )
    if embedded:
        threading.Thread(target=_stop_at_end_of_input, name="parent-watcher", daemon=True).start()
    reaper.start()  # which also works while the broker is away, from the start if need be
    try:
        consumer.start()
    finally:
        worker.stop()
        reaper.stop()
        worker.database.close()
        close_metrics()


def _serve_metrics(worker: Worker) -> Callable[[], None]:
    """Returns what ends it."""
    host, port = worker.settings.metrics_host, worker.settings.metrics_port
    if port == 0:
        return lambda: None
    try:
        return worker.metrics.serve(host, port)
    except OSError as error:
        log.critical("not starting: no metrics on %s:%d (%s); each worker needs a port of its own", host, port, error)
        raise SystemExit(1) from None


def _refuse_newer_schema(worker: Worker) -> None:
    try:
        refuse_newer(worker.database)
    except OperationalError as error:  # it may come back: the reaper looks again and again
        log.warning("the database does not answer yet: %s", error.orig)


def _stop_at_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 4096):  # not sys.stdin.read: it holds a lock that the interpreter's end asks for
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
    try:
        run_worker(settings_or_exit(), queues=queues, embedded=options.embedded)
    except NewerSchemaError as error:
        log.critical("not starting: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
