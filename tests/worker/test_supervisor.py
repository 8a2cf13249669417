"""The process of a job as its worker starts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.supervisor import KEEP_FREED_MEMORY, Child


def environment_of_a_child() -> dict[str, str]:
    child = Child({}, name="test")
    try:
        entries = Path(f"/proc/{child.pid}/environ").read_text().split("\0")
        return dict(entry.split("=", 1) for entry in entries if entry)
    finally:
        child.kill()
        child.wait()


def test_it_keeps_freed_memory_and_knows_the_workers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEAD_TEST_MARK", "7")
    found = environment_of_a_child()
    assert KEEP_FREED_MEMORY.items() <= found.items()
    assert found["CLEAD_TEST_MARK"] == "7"


def test_what_the_operator_set_for_the_allocator_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    assert environment_of_a_child()["MALLOC_TRIM_THRESHOLD_"] == "65536"
