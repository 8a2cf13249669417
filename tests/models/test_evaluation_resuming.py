"""An evaluation that was interrupted goes on from its checkpoint, and sees what one that ran in one go sees."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models import evaluation_run
from models.checkpoints import CheckpointError, load_state
from models.data.images import ImageSet
from models.evaluation import measure
from models.evaluation_evidence import Evidence
from models.evaluation_spec import EvaluationParams
from models.progress import Silent, Stopped
from models.resuming import Checkpointing
from tests.models.evaluations import CURVE, spec

COUNT = 40
CHUNK = 25
ATTACKS = [
    {"name": "pgd", "eps": 0.1, "steps": 5},
    {"name": "autoattack", "eps": 0.1, "steps": 4, "targets": 1, "queries": 8},
    {"name": "deepfool", "steps": 3},
]
PARTS = ["apgd-ce", "apgd-dlr-targeted", "fab-t", "square"]


class Keeper:
    """Keeps every checkpoint, and may ask to stop once the evaluation has come so far."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.checkpoints: list[Path] = []
        self.seen: list[tuple[str, int]] = []
        self.told_at: dict[Path, tuple[str, int]] = {}
        self._stop_after = stop_after

    def progress(self, done: int, total: int, *, unit: str, stage: str) -> None:
        self.seen.append((stage, done))
        assert 0 <= done <= total

    def metrics(self, step: int, values: dict[str, float]) -> None:
        raise AssertionError("an evaluation has none")

    def checkpoint(self, path: Path, step: int) -> None:
        assert path.name == f"resume-{step:09d}.pt"
        self.checkpoints.append(path)
        self.told_at[path] = self.seen[-1]

    def should_stop(self) -> bool:
        return self._stop_after is not None and bool(self.seen) and self.seen[-1][1] >= self._stop_after


@pytest.fixture
def images(victim, monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    """Some, that are attacked in chunks of 25; three that the model gets right have another label."""
    monkeypatch.setattr(evaluation_run, "_CHUNK_BYTES", 4 * 64 * CHUNK)
    drawn = victim.images.take(torch.arange(COUNT))
    wrong = (torch.arange(COUNT) % 15 == 7).long()
    return ImageSet(drawn.images, (drawn.labels + wrong) % 10, drawn.classes)


def asked(**changes: Any) -> EvaluationParams:
    return spec(ATTACKS, **{"curve": CURVE, "examples": 9, "batch_size": 16, "precision": "float32", **changes})


def run(victim, images: ImageSet, params: EvaluationParams, *, reporter: Any, **checkpointing: Any) -> Evidence:
    options = Checkpointing(**checkpointing)
    return measure(victim.model, images, params, reporter=reporter, device="cpu", checkpointing=options)


def flat(value: Any) -> Any:
    """For comparison: without seconds, tensors as lists."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [flat(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name.name: flat(getattr(value, name.name)) for name in fields(value) if name.name != "seconds"}
    return value


def test_from_every_point_that_it_can_go_on_from_an_evaluation_ends_as_in_one_go(
    victim, images: ImageSet, tmp_path: Path
) -> None:
    params, keeper = asked(), Keeper()
    whole = measure(victim.model, images, params, reporter=Silent(), device="cpu")
    assert flat(run(victim, images, params, reporter=keeper, workdir=tmp_path, steps=1)) == flat(whole)
    attacked = int(whole.right.sum())
    chunks = 2
    assert CHUNK < attacked < COUNT
    # A point after each chunk of clean images, of each attack and of the curve; of AutoAttack after each part as well.
    assert len(keeper.checkpoints) == chunks * (1 + 3 + len(PARTS) + 1)

    work = [load_state(path)["work"]["gradients"] for path in keeper.checkpoints]
    assert work == sorted(work) and work[0] == 0 and work[-1] > 0.9 * whole.gradients
    for path in keeper.checkpoints:
        again = Keeper()
        resumed = run(victim, images, params, reporter=again, workdir=tmp_path / "again", resume=path)
        # Gradients and forwards are among it, added up over both runs: nothing was done twice, and nothing left out.
        assert flat(resumed) == flat(whole), path.name
        stage, done = keeper.told_at[path]
        told = [count for name, count in again.seen if name == stage]
        assert not told or told[0] >= done, "it tells at once what was told before, and nothing while it skips"


class Stopper(Keeper):
    """Asks to stop when it is asked for the ``number``-th time, and notes in which stage each time was."""

    def __init__(self, number: int | None = None) -> None:
        super().__init__()
        self.asked: list[str] = []
        self._number = number

    def should_stop(self) -> bool:
        self.asked.append(self.seen[-1][0] if self.seen else "skipping")
        return len(self.asked) == self._number

    def times(self, stage: str, count: int) -> list[int]:
        """So many of the times, evenly spread, at which it was asked in that stage; the first is 1."""
        found = [number for number, name in enumerate(self.asked, start=1) if name == stage]
        return found[:: max(1, len(found) // count)][:count]


def test_wherever_it_is_asked_to_stop_it_leaves_a_checkpoint_to_go_on_from(
    victim, images: ImageSet, tmp_path: Path
) -> None:
    params, complete = asked(), Stopper()
    whole = measure(victim.model, images, params, reporter=complete, device="cpu")
    for number in [
        number for stage in ("pgd", "autoattack", "deepfool", "curve") for number in complete.times(stage, 3)
    ]:
        stopping = Stopper(number)
        with pytest.raises(Stopped):
            run(victim, images, params, reporter=stopping, workdir=tmp_path, seconds=1e6)
        (path,) = stopping.checkpoints
        resumed = run(victim, images, params, reporter=Keeper(), workdir=tmp_path / "again", resume=path)
        assert flat(resumed) == flat(whole), (number, stopping.seen[-1])
        assert resumed.seconds > load_state(path)["seconds"] > 0


def test_a_stop_right_after_a_checkpoint_writes_no_second_one(victim, images: ImageSet, tmp_path: Path) -> None:
    complete = Stopper()
    run(victim, images, asked(), reporter=complete, workdir=tmp_path, steps=1)
    stopping = Stopper(len(complete.asked) // 2)
    with pytest.raises(Stopped):
        run(victim, images, asked(), reporter=stopping, workdir=tmp_path, steps=1)
    assert len(set(stopping.checkpoints)) == len(stopping.checkpoints) > 1


def test_one_goes_on_in_the_arithmetic_that_it_began_with(
    victim, images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that would choose another by itself."""
    params, keeper = asked(precision="auto"), Keeper()
    monkeypatch.setattr(evaluation_run, "resolve_precision", lambda asked, device: "bfloat16")
    whole = run(victim, images, params, reporter=keeper, workdir=tmp_path, steps=1)
    monkeypatch.setattr(evaluation_run, "resolve_precision", lambda asked, device: "float32")
    in_float32 = measure(victim.model, images, params, reporter=Silent(), device="cpu")
    assert flat(in_float32) != flat(whole), "else this test could not fail"
    path = keeper.checkpoints[3]
    resumed = run(victim, images, params, reporter=Keeper(), workdir=tmp_path / "again", resume=path)
    assert flat(resumed) == flat(whole)


def test_none_is_left_where_nothing_was_done(victim, images: ImageSet, tmp_path: Path) -> None:
    stopping = Keeper(stop_after=0)
    with pytest.raises(Stopped):
        run(victim, images, asked(), reporter=stopping, workdir=tmp_path, seconds=0)
    assert not stopping.checkpoints


@pytest.mark.parametrize("other", ["spec", "model", "labels", "order"])
def test_the_checkpoint_of_another_evaluation_is_refused(victim, images: ImageSet, tmp_path: Path, other: str) -> None:
    keeper = Keeper()
    run(victim, images, asked(), reporter=keeper, workdir=tmp_path, steps=5)
    params = asked(**{"seed": 1} if other == "spec" else {"model": "victim@2"} if other == "model" else {})
    if other == "labels":
        images = ImageSet(images.images, images.labels.flip(0), images.classes)
    if other == "order":
        images = images.take(torch.arange(COUNT).flip(0))
    with pytest.raises(CheckpointError, match="another spec, data set"):
        run(victim, images, params, reporter=Keeper(), workdir=tmp_path, resume=keeper.checkpoints[0])
