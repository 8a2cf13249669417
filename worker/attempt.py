"""One attempt at a job: supervise its child, keep its checkpoints, and bring the outcome home."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy.exc import DBAPIError, OperationalError

from app.errors import DomainError
from app.file_systems import StorageError
from app.services import artifacts, claims, parents, references
from app.services.artifacts import Deposit
from app.services.claims import Claim
from app.storage import Artifact
from worker.context import Worker
from worker.inputs import DeletedInputError, prepare
from worker.lease import LeaseKeeper
from worker.patience import patiently
from worker.supervisor import Child, death_cause

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """How an attempt's child ended.

    ``done``: its output lies in the folder. ``stopped``: asked to, after a checkpoint. ``failed``: ``error`` says why,
    and trying again would not help. ``died``: ``cause`` says how. ``lost``: the lease is gone; nothing may be written.
    """

    kind: Literal["done", "stopped", "failed", "died", "lost"]
    error: dict[str, Any] | None = None
    cause: str = ""


def reason(error: DomainError | OSError) -> str:
    """In words for the job's owner: paths of this machine are for its log."""
    return error.strerror or str(error) if isinstance(error, OSError) else error.detail


def without_storage(worker: Worker, error: StorageError) -> Ending:
    """What becomes of a job that waited for the storage in vain: it died, unless its worker had to stop meanwhile."""
    return Ending("stopped") if worker.stopping.is_set() else Ending("died", cause=error.detail)


class Attempt:
    """Runs the child of one claim in ``folder`` until it ends."""

    def __init__(self, worker: Worker, claim: Claim, *, folder: Path, lease: LeaseKeeper) -> None:
        self._worker = worker
        self._claim = claim
        self._folder = folder
        self._lease = lease
        self._eta = Eta(time.monotonic)
        self._interval = min(0.2, worker.settings.heartbeat_seconds)
        self._stop_at: float | None = None
        self._killed = False
        self._ending: Ending | None = None

    def run(self) -> Ending:
        """Never raises for what a job, its data or its process does."""
        try:
            task = patiently(
                self._worker,
                lambda: prepare(self._worker, self._claim, folder=self._folder),
                give_up=lambda: self._lease.lost,
            )
        except OperationalError:
            return Ending("lost")  # no database for longer than the lease, or than a stop may take
        except StorageError as error:
            return Ending("lost") if self._lease.lost else without_storage(self._worker, error)
        except DeletedInputError as error:
            log.warning("job %s: %s", self._claim.job_id, error.detail)
            problem = {"type": "about:blank", "title": "An input was deleted", "detail": error.detail}
            return Ending("failed", error=problem)
        except (DomainError, OSError) as error:
            log.warning("job %s: its inputs could not be fetched", self._claim.job_id, exc_info=True)
            return Ending("died", cause=f"its inputs could not be fetched: {reason(error)}")
        child = Child(task, name=f"job {self._claim.job_id}")
        log.info("job %s: attempt %d runs in process %d", self._claim.job_id, self._claim.attempt, child.pid)
        watch = threading.Thread(
            target=copy_context().run, args=(self._watch, child), name=f"watch-{self._claim.job_id}", daemon=True
        )
        watch.start()
        try:
            if self._claim.parent_id is not None:
                parents.prepare()  # while the child starts
            self._listen(child)
        finally:
            child.kill()
            status = child.wait()
            watch.join()
        if self._ending is None and self._lease.lost:
            return Ending("lost")
        if self._ending is None and self._killed:
            return Ending("stopped")
        if self._ending is not None:
            return self._ending
        self._worker.metrics.child_died(status)
        return Ending("died", cause=death_cause(status, child.tail))

    def _listen(self, child: Child) -> None:
        """Take the child's events until it has ended, or has lost its right to run."""
        while not self._lease.lost:
            event = child.next_event(timeout=self._interval)
            if event is None:
                continue
            if event["event"] == "exited":
                child.wait()
                return
            self._take(event)

    def _watch(self, child: Child) -> None:
        """Tell the child to stop once it must; kill it if it does not in time, or has lost its right to run.

        In a thread beside :meth:`_listen`, which a checkpoint on its way to the storage may keep busy for long.
        """
        while not child.exited.wait(self._interval):
            if self._lease.lost:
                child.kill()
                return
            if self._stop_at is None:
                if self._lease.cancelled or self._worker.stopping.is_set():
                    self._stop_at = time.monotonic() + self._worker.settings.stop_seconds
                    child.stop()
            elif self._late():
                log.warning("job %s did not stop in time; killed", self._claim.job_id)
                self._killed = True
                child.kill()
                return

    def _late(self) -> bool:
        """Whether the time to stop is over."""
        return self._stop_at is not None and time.monotonic() > self._stop_at

    def _take(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "progress":
            progress = event["progress"]
            self._lease.progress(self._eta.with_estimate(progress))
            self._worker.metrics.progress.set(progress["done"] / max(progress["total"], 1))
        elif kind == "metrics":
            self._lease.metrics(event["step"], event["values"])
            if "images_per_second" in event["values"]:
                self._worker.metrics.images_per_second.set(event["values"]["images_per_second"])
        elif kind == "memory":
            self._worker.metrics.device_memory(event["devices"])
        elif kind == "checkpoint" and self._late():
            log.warning("job %s: no time is left for the checkpoint of step %d", self._claim.job_id, event["step"])
        elif kind == "checkpoint":
            self._keep_checkpoint(Path(event["path"]), step=event["step"])
        elif kind == "error" and event["again"]:
            self._ending = Ending("died", cause=event["error"]["detail"])
        elif kind == "error":
            self._ending = Ending("failed", error=event["error"])
        else:
            self._ending = Ending("done" if kind == "done" else "stopped")

    def _keep_checkpoint(self, path: Path, *, step: int) -> None:
        """Bring a checkpoint into the storage. Where that fails the job goes on: it has older ones, or none.

        One that a later one has overtaken is left out: a storage may be slower than the job.
        """
        if any(later.name > path.name for later in path.parent.glob("resume-[0-9]*.pt")):
            path.unlink(missing_ok=True)
            return
        folder, metrics = references.checkpoints_of(self._claim.job_id), self._worker.metrics
        deposit = Deposit(self._worker.storage)
        try:
            with metrics.checkpoint_seconds.time():
                artifact = deposit.put(path, folder=folder)
            metrics.checkpoint_bytes.inc(artifact.size)
            old = self._record_checkpoint(deposit, artifact, step=step)
            artifacts.delete_unused(self._worker.database, self._worker.storage, folder, names=old)
        except (DomainError, OSError, DBAPIError) as error:
            metrics.checkpoints_failed.inc()
            job_id = self._claim.job_id
            log.warning("job %s: the checkpoint of step %d is lost, or older ones stay: %s", job_id, step, error)
        finally:
            path.unlink(missing_ok=True)

    def _record_checkpoint(self, deposit: Deposit, artifact: Artifact, *, step: int) -> list[str]:
        """Hashes of those that it makes needless; none if the claim is lost."""

        def record() -> list[str]:
            with self._worker.database.writing() as session:
                deposit.secure(session)
                old = claims.record_checkpoint(
                    session, self._claim, sha256=artifact.sha256, size=artifact.size, step=step
                )
                return old or []

        return patiently(self._worker, record, give_up=lambda: self._lease.lost or self._late())


class Eta:
    """Estimates the seconds left from the speed since this count was first seen.

    A count is a unit and its total; its stages may change. One that falls back has begun anew.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._count: tuple[str, int] | None = None
        self._start = (0.0, 0)

    def with_estimate(self, progress: dict[str, Any]) -> dict[str, Any]:
        """``progress`` with ``eta_seconds``, which is None until there is something to estimate from."""
        count = (progress["unit"], progress["total"])
        if count != self._count or progress["done"] < self._start[1]:
            self._count, self._start = count, (self._clock(), progress["done"])
        began, done_then = self._start
        gained = progress["done"] - done_then
        left = progress["total"] - progress["done"]
        eta = round((self._clock() - began) / gained * left, 1) if gained > 0 else None
        return {**progress, "eta_seconds": eta}
