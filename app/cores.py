"""How many threads torch gets on this machine, or in this container."""

from __future__ import annotations


def cores() -> int:
    """CPU cores that this process may use, by its affinity and by the quota of its container."""
    from joblib import cpu_count  # here: it imports NumPy, which a worker's own process does without

    return int(cpu_count())


def torch_threads(wanted: int) -> int:
    """As many as ``wanted``; for 0 as there are cores, but one, which is left to the other processes.

    With a team on every core, each layer waits for the thread whose core is busy (measured on two cores, one of them
    busy: 49 s where one thread takes 4 s).
    """
    return wanted or max(1, cores() - 1)
