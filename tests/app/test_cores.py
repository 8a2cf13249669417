"""Threads by the cores that a process may use."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = "from app.settings import Settings; print(Settings().torch_threads)"


def threads(**environment: str) -> int:
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=os.environ | environment, capture_output=True, text=True)
    return int(run.stdout)


def test_one_core_is_left_of_those_that_the_process_may_run_on() -> None:
    here = os.sched_getaffinity(0)
    assert threads() == max(1, len(here) - 1)
    script = f"import os; os.sched_setaffinity(0, {{{min(here)}}}); {SCRIPT}"
    alone = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(alone.stdout) == 1


def test_what_is_set_counts() -> None:
    assert threads(CLEAD_THREADS="7") == 7
