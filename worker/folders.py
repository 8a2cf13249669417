"""Work folders: one an attempt, removed at its end, and by the next worker where a killed one could not."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "in-use"


@contextmanager
def work_folder(root: Path, name: str) -> Iterator[Path]:
    """A fresh folder that holds a lock for as long as the block, and this process, lives."""
    folder = root / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with (folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Its lock last: what a kill leaves of it is swept."""
    for item in folder.iterdir() if folder.is_dir() else []:
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item, ignore_errors=True)
        elif item.name != LOCK:
            item.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


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
