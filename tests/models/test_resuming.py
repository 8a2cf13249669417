"""When resume checkpoints are due, and who writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models import resuming
from models.resuming import Checkpointing, Checkpoints
from tests.models.recording import Recorder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, which pass when a test says so, and 40 with every write."""
    now = [0.0]

    def slow(path: Path, state: Any) -> None:
        now[0] += 40.0
        path.write_bytes(b"")

    monkeypatch.setattr(resuming.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(resuming, "save_state", slow)
    return now


@pytest.mark.parametrize("rank", [0, 1])
def test_on_a_slow_disk_too_there_is_an_interval_of_work_between_two_writes(
    clock: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    monkeypatch.setattr(resuming, "rank", lambda: rank)
    recorder = Recorder()
    checkpoints = Checkpoints(Checkpointing(tmp_path, seconds=30), fingerprint="f", reporter=recorder)
    clock[0] += 30
    assert checkpoints.due(1)
    checkpoints.write(1, {})
    assert not checkpoints.due(2)
    clock[0] += 29
    assert not checkpoints.due(3)
    clock[0] += 1
    assert checkpoints.due(4)
    # The first process's serves all.
    assert [step for _, step in recorder.checkpoints] == ([1] if rank == 0 else [])
