"""The loop by itself, on trainings of one number."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.checkpoints import load_state
from models.loop import Checkpointing, DivergedError, Task, optimize
from models.progress import Moment
from models.specs import OptimizerSpec, ScheduleSpec
from tests.models.recording import Recorder


def test_no_checkpoint_has_weights_that_are_not_finite(tmp_path: Path) -> None:
    """The third loss is finite and has no slope; the gradient's norm is looked at in the first step and the tenth."""
    model = nn.Linear(1, 1, bias=False)

    def loss(moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        total = model.weight.sum()
        return (total * 0).sqrt() if moment.step == 2 else total, {}

    task = Task(
        modules=model,
        loss=loss,
        optimizer=OptimizerSpec(),
        schedule=ScheduleSpec(name="constant"),
        steps_per_epoch=4,
        epochs=4,
        batch_size=1,
        fingerprint="",
        stage="train",
    )
    recorder = Recorder()
    with pytest.raises(DivergedError, match="not finite after step 3"):
        optimize(task, recorder, checkpointing=Checkpointing(tmp_path, steps=1))
    assert [step for _, step in recorder.checkpoints] == [1, 2]
    for path, _ in recorder.checkpoints:
        assert torch.isfinite(load_state(path)["modules"]["weight"]).all()
