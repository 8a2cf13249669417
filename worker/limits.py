"""What a job's process may take of the machine, and who goes first where memory runs out. Linux; elsewhere nothing."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1
FIRST_TO_GO = 1000


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent dies; the end of stdin does it elsewhere."""
    if sys.platform == "linux":
        # No libc that answers: the end of stdin remains.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def go_first() -> None:
    """Where the machine or the container runs out of memory, the kernel kills this process before its worker."""
    if sys.platform == "linux":
        # A /proc that cannot be written: the largest process goes, which is this one as a rule.
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_GO))


def limit_memory(size: int) -> None:
    """Let allocations fail above ``size`` bytes of private, writable memory; 0: no limit.

    Not the address space: CUDA reserves far more of it than it uses. See docs/decisions/0017.
    """
    if size > 0 and sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
