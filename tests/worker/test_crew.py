"""Several processes for one job: whose failure it was when one fails, and that there are not more than cores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from models.methods.spec import METHODS
from models.progress import Silent
from tests.system.trainings import ENDLESS
from worker.crew import TooFewDevicesError, crew
from worker.pipe import Pipe
from worker.runs import train_as
from worker.task import Task


class Greedy(Silent):
    def progress(self, done: int, total: int, *, unit: str, stage: str) -> None:
        raise torch.OutOfMemoryError("the first process itself")


def task_of(folder: Path, *, devices: int) -> Task:
    asked = {name: value for name, value in ENDLESS.items() if name != "register_as"}
    spec = METHODS["clead"].params.model_validate({**asked, "batch_size": 64, "devices": devices})
    fields = {"kind": "pretrain", "spec": json.loads(spec.model_dump_json()), "folder": str(folder)}
    fields |= {"data_root": str(folder), "device": "cpu", "threads": 2, "checkpoint_seconds": 30.0, "models": {}}
    return Task.parse(fields | {"upload": None, "resume": None, "evidence": ()})


def test_the_first_process_fails_for_its_own_reason(tmp_path: Path) -> None:
    task = task_of(tmp_path, devices=2)
    own = pytest.raises(torch.OutOfMemoryError, match="the first process itself")
    with own, crew(task, pipe=cast(Pipe, None)) as device:
        train_as(task, task.dataset(Silent()), Greedy(), device=device)


@pytest.mark.parametrize(("mine", "asked"), [(1, 2), (2, 64)])
def test_processes_on_cpus_are_not_more_than_cores(
    mine: int, asked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes the memory of a whole training; cores are those that the process may run on."""
    monkeypatch.setattr("worker.crew.cores", lambda: mine)
    started: list[Any] = []
    monkeypatch.setattr("worker.crew.Mate", started.append)
    refused = pytest.raises(TooFewDevicesError, match=f"asks for {asked} devices; on CPUs .* this worker has {mine}$")
    with refused, crew(task_of(tmp_path, devices=asked), pipe=cast(Pipe, None)):
        pass
    assert not started


def test_more_gpus_than_there_are_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a worker whose machine has two, and of one that was given the second of them."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for given, there in (("cuda", 2), ("cuda:1", 1)):
        task = replace(task_of(tmp_path, devices=4), device=given)
        refused = pytest.raises(TooFewDevicesError, match=f"^the job asks for 4 devices; this worker has {there}$")
        with refused, crew(task, pipe=cast(Pipe, None)):
            pass
