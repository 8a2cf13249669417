"""Work folders: one a task, removed at its end, and by the next process that starts where a killed one could not."""

from __future__ import annotations

import fcntl
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

LOCK = "in-use"


@contextmanager
def work_folder(root: Path, name: str) -> Iterator[Path]:
    """A new folder ``root/<name>-…`` that holds a lock for as long as the block, and this process, lives."""
    folder, lock = _make(root, name)
    try:
        with lock:
            yield folder
    finally:
        _remove(folder)


def sweep(root: Path) -> list[Path]:
    """Remove the folders that no living process holds; returns them."""
    removed = []
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        try:
            with (folder / LOCK).open("r") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(folder)
                removed.append(folder)
        except (FileNotFoundError, NotADirectoryError):
            continue  # being made this moment, or not one of ours
        except BlockingIOError:
            continue  # in use
    return removed


def _make(root: Path, name: str) -> tuple[Path, TextIO]:
    while True:
        folder = root / f"{name}-{uuid.uuid4().hex}"
        folder.mkdir(parents=True)
        lock = (folder / LOCK).open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / LOCK).exists():
            return folder, lock
        lock.close()  # a sweep came between: it found a lock that nobody held yet


def _remove(folder: Path) -> None:
    """Its lock last: what a kill leaves of it is swept."""
    for item in folder.iterdir() if folder.is_dir() else []:
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item, ignore_errors=True)
        elif item.name != LOCK:
            item.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
