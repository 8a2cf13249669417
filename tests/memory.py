"""How much memory a process takes, as Linux counts it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20


def resident_bytes(pid: int) -> int:
    """Memory that a process holds now."""
    return _status(pid, "VmRSS")


@contextmanager
def at_most(extra_bytes: int, *, pid: int | None = None) -> Iterator[None]:
    """Assert that a process (None: this one) never holds ``extra_bytes`` more inside than it does before."""
    pid = pid or os.getpid()
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # forgets the peak so far, see proc(5)
    before = resident_bytes(pid)
    yield
    grown = _status(pid, "VmHWM") - before
    assert grown < extra_bytes, f"{grown // MIB} MiB more were taken, {extra_bytes // MIB} MiB are allowed"


def _status(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith(f"{field}:")]
    return int(value) * 1024
