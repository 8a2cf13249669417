"""The processes that share one training's batches: the job's own, which is the first, and its mates, one a device."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from app.cores import cores
from models.distributed import joined
from models.precision import pick_device
from worker.pipe import Pipe
from worker.supervisor import death_cause
from worker.task import Task

log = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
"""For the first process to notice by itself that a mate is gone, and to say what it was at."""


class LostProcessError(RuntimeError):
    """One of a job's processes ended before the others."""


class TooFewDevicesError(ValueError):
    """The machine has fewer devices than the job asks for."""


@contextmanager
def crew(task: Task, *, pipe: Pipe) -> Iterator[torch.device]:
    """The device of this process, once its mates are there, if the spec asks for any. They end with it.

    Raises :class:`TooFewDevicesError` and :class:`LostProcessError`.
    """
    size = task.devices
    if size == 1:
        yield pick_device(task.device)
        return
    device = own_device(task, rank=0)
    mates = [Mate(task, rank) for rank in range(1, size)]
    over = threading.Event()
    for mate in mates:
        threading.Thread(target=_watch, args=(mate, pipe, over), name=f"mate-{mate.rank}", daemon=True).start()
    try:
        with meeting(task, device, rank=0):
            try:
                yield device
            except BaseException as error:
                lost = _lost(mates) if isinstance(error, RuntimeError) else None
                _end(mates, over)  # before they part: NCCL would wait for those that wait for this one
                if lost is None:
                    raise
                raise LostProcessError(lost.cause()) from error
    finally:
        _end(mates, over)


def _lost(mates: Sequence[Mate]) -> Mate | None:
    """The one that does not answer any more, as torch says by a RuntimeError, if there is one.

    While they are still joined, a mate ends for a reason of its own alone, and not because this process has failed.
    """
    return next((mate for mate in mates if mate.failed(within=GRACE_SECONDS / len(mates))), None)


def _end(mates: Sequence[Mate], over: threading.Event) -> None:
    over.set()
    for mate in mates:
        mate.kill()


@contextmanager
def meeting(task: Task, device: torch.device, *, rank: int) -> Iterator[None]:
    """With the job's other processes, by a file in its folder."""
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a container's own name may lead nowhere
    backend = "nccl" if device.type == "cuda" else "gloo"
    with joined(backend, task.folder / "meeting-place", rank=rank, size=task.devices):
        yield


def own_device(task: Task, *, rank: int) -> torch.device:
    """CUDA device number ``rank``; processes on CPUs share the cores, of which each has one at least.

    A worker that was given one device by its number has that one alone. Raises :class:`TooFewDevicesError`.
    """
    device = pick_device(task.device)
    if device.type == "cpu":
        if task.devices > cores():
            raise TooFewDevicesError(
                f"the job asks for {task.devices} devices; on CPUs each takes a core, and this worker has {cores()}"
            )
        torch.set_num_threads(max(1, task.threads // task.devices))
        return device
    there = torch.cuda.device_count() if device.type == "cuda" and device.index is None else 1
    if there < task.devices:
        raise TooFewDevicesError(f"the job asks for {task.devices} devices; this worker has {there}")
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


class Mate:
    """Process ``rank`` of the job: ``python -m worker.mate``, in the process group of the first."""

    def __init__(self, task: Task, rank: int) -> None:
        self.rank = rank
        self._said = last_words(task.folder, rank)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker.mate", str(rank)], stdin=subprocess.PIPE, text=True, encoding="utf-8"
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(task), default=str) + "\n")
        self._process.stdin.flush()  # and left open: its end would be the mate's

    def failed(self, *, within: float) -> bool:
        """Whether it ends within so many seconds, and not because all was done."""
        try:
            return self._process.wait(within) != 0
        except subprocess.TimeoutExpired:
            return False

    def wait(self) -> int:
        return self._process.wait()

    def cause(self) -> str:
        said = self._said.read_text(encoding="utf-8") if self._said.exists() else ""
        cause = said or death_cause(self._process.wait(), "")
        return f"process {self.rank} of the job ended early: {cause}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def last_words(folder: Path, rank: int) -> Path:
    """Where a mate says why it failed."""
    return folder / f"mate-{rank}.txt"


def _watch(mate: Mate, pipe: Pipe, over: threading.Event) -> None:
    """A process that waits for one that is gone may wait for ever: after a while the job ends here."""
    if mate.wait() == 0 or over.wait(GRACE_SECONDS):
        return
    log.error("%s", mate.cause())
    pipe.send("error", error={"type": "about:blank", "title": "LostProcess", "detail": mate.cause()}, again=True)
    os._exit(0)
