"""The machine: its home folder, its disk, its device."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from app.cores import cores
from app.doctor.findings import Finding, Site, failed, ok, warning
from app.settings import DEVICE_ADVICE, MIB
from models.precision import pick_device

SCARCE, TOO_LITTLE = 2048 * MIB, 256 * MIB
"""Free bytes: a job's checkpoints and a data set fit below the first seldom, below the second never."""


def home(site: Site) -> Iterator[Finding]:
    """The home folder is there and can be written to; one that is missing can be made."""
    path = site.settings.home
    if path.is_dir() and os.access(path, os.W_OK | os.X_OK):
        yield ok("home", f"{path} can be written to")
    elif path.exists() or not os.access(_nearest(path), os.W_OK | os.X_OK) or not _nearest(path).is_dir():
        yield failed(
            "home", f"{path} cannot be written to", advice="give this user the folder, or set CLEAD_HOME to another"
        )
    else:
        yield warning(
            "home", f"{path} does not exist yet", advice="clead serve or clead migrate makes it; is it right?"
        )


def disk(site: Site) -> Iterator[Finding]:
    """Free space where the home folder lies."""
    free = shutil.disk_usage(_nearest(site.settings.home)).free
    detail = f"{free / 2**30:.1f} GiB are free"
    advice = "checkpoints, data sets and work folders need room: clear some, or move CLEAD_HOME"
    if free < TOO_LITTLE:
        yield failed("disk", detail, advice=advice)
    elif free < SCARCE:
        yield warning("disk", detail, advice=advice)
    else:
        yield ok("disk", detail)


def device(site: Site) -> Iterator[Finding]:
    """The torch device can be used, and there are no more threads than cores."""
    wanted = site.settings.device
    try:
        found = pick_device(wanted)
        torch.zeros(1, device=found)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        yield failed("device", f"{wanted} cannot be used: {reason}", advice=DEVICE_ADVICE)
        return
    name = torch.cuda.get_device_name(found) if found.type == "cuda" else "no GPU is used"
    yield ok("device", f"torch {torch.__version__} on {found} ({name}), {site.settings.torch_threads} threads")
    if site.settings.threads > (most := cores()):
        detail = f"{site.settings.threads} threads on {most} cores get into each other's way"
        yield warning("device", detail, advice=f"set CLEAD_THREADS to 0, or to {most} at most")


def _nearest(path: Path) -> Path:
    """The path itself, or the next folder above it that exists."""
    return next(each for each in (path, *path.parents) if each.exists())
