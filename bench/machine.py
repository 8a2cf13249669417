"""The machine that a benchmark ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

from models.precision import resolve_precision

RESULTS = Path(__file__).parent / "results"


def described(device: str) -> dict[str, Any]:
    """For a report: what its figures were measured on."""
    chip = torch.cuda.get_device_name(device) if on_gpu(device) else platform.processor() or platform.machine()
    return {
        "torch": torch.__version__,
        "processor": chip,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "precision": resolve_precision("auto", torch.device(device)),
    }


def results_file(name: str, device: str) -> Path:
    """``name``.json of a benchmark that runs on several devices; ``name``-cuda.json of one on a GPU."""
    return RESULTS / (f"{name}.json" if device == "cpu" else f"{name}-{torch.device(device).type}.json")


def on_gpu(device: str) -> bool:
    return torch.device(device).type == "cuda"


def finished(device: str) -> None:
    """Wait for what was queued there, before a look at the clock."""
    if on_gpu(device):
        torch.cuda.synchronize(device)
