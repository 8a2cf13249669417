"""How a long computation tells its caller how far it is, and learns that it should stop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Moment:
    """Where a training stands before an update: ``step`` of ``total`` are done, ``epoch`` with its fraction."""

    step: int
    total: int
    epoch: float
    lr: float

    @property
    def share(self) -> float:
        """How much of the training is done, in [0, 1)."""
        return self.step / self.total


class Stopped(Exception):
    """The caller asked to stop; the last checkpoint has been reported before this is raised."""


class Reporter(Protocol):
    """What a training, probe or evaluation calls while it runs. All calls are cheap."""

    def progress(self, done: int, total: int, *, unit: str, stage: str) -> None:
        """``done`` of ``total`` ``unit`` (step, epoch, image), now in ``stage``."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """One point of each named series at ``step``; values are finite."""

    def checkpoint(self, path: Path, step: int) -> None:
        """``path`` holds a complete resume checkpoint, later than those of lower ``step``; the caller takes it over."""

    def should_stop(self) -> bool:
        """True once the caller wants the computation to save a checkpoint and raise :class:`Stopped`."""


class Silent:
    """A reporter for direct use of the library: keeps nothing, never stops."""

    def progress(self, done: int, total: int, *, unit: str, stage: str) -> None: ...

    def metrics(self, step: int, values: dict[str, float]) -> None: ...

    def checkpoint(self, path: Path, step: int) -> None: ...

    def should_stop(self) -> bool:
        return False
