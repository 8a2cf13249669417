"""The loop by itself, on trainings of one number: what is kept, when it ends, and what it goes on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.checkpoints import load_state
from models.loop import DivergedError, Task, Watch, optimize
from models.progress import Moment, Stopped
from models.resuming import Checkpointing
from models.specs import OptimizerSpec, ScheduleSpec
from tests.models.recording import Recorder

SCORES = [0.1, 0.5, 0.3, 0.5, 0.4, 0.2, 0.2, 0.2]


def training(number: nn.Linear, loss: Callable[[Moment], Tensor], *, watch: Watch | None = None) -> Task:
    """Sixteen updates in four epochs by plain gradient descent of rate 1."""
    return Task(
        modules=number,
        loss=lambda moment: (loss(moment), {}),
        optimizer=OptimizerSpec(lr=1.0, momentum=0, weight_decay=0),
        schedule=ScheduleSpec(name="constant"),
        steps_per_epoch=4,
        epochs=4,
        batch_size=1,
        fingerprint="",
        stage="train",
        watch=watch,
    )


def zero() -> nn.Linear:
    number = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(number.weight)
    return number


def watched(scores: list[float], *, keep_best: bool, patience: int | None) -> Task:
    """A training by steps of −1, looked at every second step."""
    number, left = zero(), iter(scores)
    watch = Watch(number, lambda: {"score": next(left)}, "score", every=2, keep_best=keep_best, patience=patience)
    return training(number, lambda moment: number.weight.sum(), watch=watch)


@pytest.mark.parametrize(
    ("keep_best", "patience", "weight", "steps"),
    [(False, None, -16, 16), (True, None, -4, 16), (True, 2, -4, 8), (False, 3, -10, 10)],
)
def test_the_best_look_is_kept_and_patience_ends(
    keep_best: bool, patience: int | None, weight: float, steps: int, tmp_path: Path
) -> None:
    recorder = Recorder()
    task = watched(SCORES, keep_best=keep_best, patience=patience)
    result = optimize(task, recorder, checkpointing=Checkpointing(tmp_path))
    assert task.watch is not None and task.watch.model.weight.item() == weight  # type: ignore[union-attr]
    assert (result["steps"], result["best_step"], result["best_score"]) == (steps, 4, 0.5)
    assert list(recorder.series["score"]) == list(range(2, steps + 1, 2))
    assert (recorder.done, recorder.total) == (steps, steps), "an early end is an end"


def test_the_final_loss_is_that_of_the_epoch_in_which_it_ended(tmp_path: Path) -> None:
    result = optimize(watched(SCORES, keep_best=False, patience=2), Recorder(), checkpointing=Checkpointing(tmp_path))
    assert result["steps"] == 8 and result["final_loss"] == (-4 - 5 - 6 - 7) / 4


def test_a_stopped_run_knows_its_best_look(tmp_path: Path) -> None:
    recorder = Recorder(stop_after=5)
    with pytest.raises(Stopped):
        optimize(watched(SCORES, keep_best=True, patience=4), recorder, checkpointing=Checkpointing(tmp_path))
    ((path, step),) = recorder.checkpoints
    assert step == 5
    task = watched(SCORES[2:], keep_best=True, patience=4)
    result = optimize(task, Recorder(), checkpointing=Checkpointing(tmp_path, resume=path))
    assert (result["steps"], result["best_step"], result["best_score"]) == (12, 4, 0.5)
    assert task.watch is not None and task.watch.model.weight.item() == -4  # type: ignore[union-attr]


def test_no_checkpoint_has_weights_that_are_not_finite(tmp_path: Path) -> None:
    """The third loss is finite and has no slope; the gradient's norm is looked at in the first step and the tenth."""
    number = zero()

    def loss(moment: Moment) -> Tensor:
        total = number.weight.sum()
        return (total * 0).sqrt() if moment.step == 2 else total

    recorder = Recorder()
    with pytest.raises(DivergedError, match="not finite after step 3"):
        optimize(training(number, loss), recorder, checkpointing=Checkpointing(tmp_path, steps=1))
    assert [step for _, step in recorder.checkpoints] == [1, 2]
    for path, _ in recorder.checkpoints:
        assert torch.isfinite(load_state(path)["modules"]["weight"]).all()
