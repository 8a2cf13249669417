"""Small disks that can really be full."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def full_disk(folder: Path, *, size: int) -> Iterator[Path]:
    """``folder`` on a disk of its own with ``size`` bytes, for as long as the block lasts."""
    assert os.geteuid() == 0, "a disk that fills up has to be mounted, which takes root: run this test as root"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, *, leave: int = 0) -> Path:
    """Take all room of ``disk`` but ``leave`` bytes (whole pages of them); the file to delete for it to come back."""
    ballast = disk / "ballast"
    page = b"\0" * 4096
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # others write meanwhile, too
        while os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > leave:
            file.write(page)
    return ballast
