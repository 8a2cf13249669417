"""Work folders: gone with their task, swept where a killed process left one, never taken from a living one."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import Any, TextIO

import pytest

from app.folders import LOCK, sweep, work_folder


def test_a_work_folder_goes_with_its_block_and_a_dead_one_is_swept(tmp_path: Path) -> None:
    with work_folder(tmp_path, "a") as folder:
        (folder / "file").write_text("x")
        assert sweep(tmp_path) == []
    assert not folder.exists()
    dead = tmp_path / "dead"
    dead.mkdir()
    (dead / LOCK).touch()
    (tmp_path / "a-file").touch()
    held = tmp_path / "held"
    held.mkdir()
    with (held / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert sweep(tmp_path) == [dead]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a-file", held]


def test_a_work_folder_keeps_its_lock_until_the_rest_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what a kill in the middle leaves can be swept."""
    seen = []
    rmtree = shutil.rmtree

    def watched(path: Path, **options: Any) -> None:
        seen.append((path.name, (folder / LOCK).exists()))
        rmtree(path, **options)

    with work_folder(tmp_path, "a") as folder:
        (folder / "sub").mkdir()
        (folder / "weights").write_text("x")
        monkeypatch.setattr(shutil, "rmtree", watched)
    assert seen == [("sub", True), (folder.name, True)] and not folder.exists()


def test_a_sweep_between_a_folder_and_its_lock_costs_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, swept = fcntl.flock, []

    def late(lock: TextIO, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not swept:
            swept.extend(sweep(tmp_path))
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with work_folder(tmp_path, "a") as folder:
        (folder / "file").write_text("x")
    assert len(swept) == 1 and swept != [folder] and not list(tmp_path.iterdir())
