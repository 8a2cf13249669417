"""How a benchmark that starts other processes ends."""

from __future__ import annotations

import signal
import sys
from multiprocessing import active_children


def end_in_order_at_sigterm() -> None:
    """For a main thread: let SIGTERM end this process through its ``finally`` blocks, with status 143.

    They stop the servers that it started. A pool's processes are told at once: they would go on for minutes.
    """
    signal.signal(signal.SIGTERM, _end)


def _end(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would break off what the first began
    for child in active_children():
        child.terminate()
    sys.exit(143)
