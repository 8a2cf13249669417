"""How far an evaluation is, in the steps that it still may have to take, so that a time can be told from the start."""

from __future__ import annotations

from models.attacks.spec import FORWARD_COST
from models.attacks.victim import Work
from models.evaluation_spec import EvaluationParams
from models.progress import Reporter

UNIT = "image-step"


def total_steps(params: EvaluationParams, *, images: int) -> int:
    """What an evaluation of so many images would need if no image ever broke."""
    costs = [attack.cost for attack in (*params.attacks, *params.curve_points())]
    return round(images * (FORWARD_COST + sum(costs)))


class Progress:
    """Counts forward-and-gradient passes of single images; a forward alone is ``FORWARD_COST`` of one.

    The total is :func:`total_steps`; steps that a broken image spares count as done.
    """

    CLEAN = FORWARD_COST

    def __init__(self, reporter: Reporter, params: EvaluationParams, *, images: int, resumed: bool) -> None:
        """One that is ``resumed`` reports nothing until it works, so that what is skipped is not taken for speed."""
        self._reporter = reporter
        self._skips = resumed
        self._total = total_steps(params, images=images)
        self._done = 0.0
        self._limit = 0.0
        self._cost = 0.0
        self._stage = "clean"
        self._work = Work()
        self._work_before = 0.0

    def follow(self, work: Work) -> None:
        """Take steps inside a chunk from these counters."""
        self._work = work

    def begin(self, stage: str, *, cost: float, images: int) -> None:
        """A stage of ``images`` images that cost ``cost`` steps each."""
        self._stage, self._cost = stage, cost
        self._limit = self._done + cost * images
        self._work_before = self._work.steps
        self._report(self._done)

    def go_on(self, *, since: float) -> None:
        """The chunk that comes next began when ``since`` steps had been worked: a part of it is done."""
        self._work_before = since

    def tick(self) -> None:
        """Somewhere inside a chunk: what has been worked since the last one ended."""
        self._skips = False
        self._report(min(self._done + self._work.steps - self._work_before, self._limit))

    def finish(self, images: int) -> None:
        """So many images of the stage are through."""
        self._done = min(self._done + images * self._cost, self._limit)
        self._work_before = self._work.steps
        self._report(self._done)

    def _report(self, done: float) -> None:
        if self._skips:
            return
        self._reporter.progress(min(round(done), self._total), self._total, unit=UNIT, stage=self._stage)
