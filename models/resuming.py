"""Resume checkpoints of long computations: when one is due, how it is written, and how it is read again."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.checkpoints import CheckpointError, load_state, save_state
from models.distributed import rank
from models.progress import Reporter
from models.specs import Spec

log = logging.getLogger(__name__)

STATE_VERSION = 3  # of everything that any run puts into its state; another one's is refused


@dataclass(frozen=True)
class Checkpointing:
    """Where and how often resume checkpoints are written: each in a file of its own, which the reporter takes over."""

    workdir: Path
    resume: Path | None = None
    seconds: float = 30.0
    steps: int | None = None


class Checkpoints:
    """Those of one run; ``fingerprint`` identifies its spec and its data, so that another run's are refused."""

    def __init__(self, options: Checkpointing, *, fingerprint: str, reporter: Reporter) -> None:
        self._options = options
        self._fingerprint = fingerprint
        self._reporter = reporter
        self._written: int | None = None
        self._written_at = time.monotonic()

    def interrupted(self) -> dict[str, Any] | None:
        """The state that the run goes on from; None: it is a new one. Raises CheckpointError for another run's."""
        path = self._options.resume
        if path is None:
            return None
        state = read_checkpoint(path, fingerprint=self._fingerprint)
        log.info("goes on from %s", path.name)
        return state

    def due(self, step: int) -> bool:
        """Whether it is time for one after so many steps."""
        steps = self._options.steps
        counted = steps is not None and step % steps == 0
        return counted or time.monotonic() - self._written_at >= self._options.seconds

    def write(self, step: int, state: Mapping[str, Any]) -> None:
        """Write one and report it, unless it is there already.

        What the disk does not take is logged and left out: the one before stays valid.
        """
        if rank() == 0 and step != self._written:  # the first process's serves all
            path = self._options.workdir / f"resume-{step:09d}.pt"
            try:
                save_state(path, {"version": STATE_VERSION, "fingerprint": self._fingerprint, **state})
            except OSError as error:
                log.warning("the checkpoint of step %d could not be written: %s", step, error)
            else:
                self._written = step
                self._reporter.checkpoint(path, step)
        self._written_at = time.monotonic()


def read_checkpoint(path: Path, *, fingerprint: str) -> dict[str, Any]:
    """The state that :class:`Checkpoints` wrote; CheckpointError for one of another run."""
    state = load_state(path)
    if state.get("version") != STATE_VERSION or state.get("fingerprint") != fingerprint:
        raise CheckpointError(f"{path.name} was written by a run of another spec, data set or program version")
    return state


def fingerprint(params: Spec, data: str) -> str:
    """Identifies a run: its spec, which a job has written out, and ``data``, which tells its data from others.

    Fields that the spec does not have are left out: a later program may know more of them.
    """
    spec = json.dumps(params.model_dump(mode="json", exclude_unset=True), sort_keys=True)
    return hashlib.sha256(f"{spec}\n{data}".encode()).hexdigest()
