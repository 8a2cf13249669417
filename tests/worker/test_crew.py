"""Whose failure it was, when one of a job's processes fails while the others wait for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
import torch

from models.methods.spec import METHODS
from models.progress import Silent
from tests.system.trainings import ENDLESS
from worker.crew import crew
from worker.pipe import Pipe
from worker.runs import train_as
from worker.task import Task


class Greedy(Silent):
    def progress(self, done: int, total: int, *, unit: str, stage: str) -> None:
        raise torch.OutOfMemoryError("the first process itself")


def test_the_first_process_fails_for_its_own_reason(tmp_path: Path) -> None:
    asked = {name: value for name, value in ENDLESS.items() if name != "register_as"}
    spec = METHODS["clead"].params.model_validate({**asked, "devices": 2})
    fields = {"kind": "pretrain", "spec": json.loads(spec.model_dump_json()), "folder": str(tmp_path)}
    fields |= {"data_root": str(tmp_path), "device": "cpu", "threads": 2, "checkpoint_seconds": 30.0, "models": {}}
    task = Task.parse(fields | {"upload": None, "resume": None, "evidence": ()})
    own = pytest.raises(torch.OutOfMemoryError, match="the first process itself")
    with own, crew(task, pipe=cast(Pipe, None)) as device:
        train_as(task, task.dataset(Silent()), Greedy(), device=device)
