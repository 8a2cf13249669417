"""Memory that this process takes: of the CUDA devices as its PyTorch sees it, and of the machine."""

from __future__ import annotations

import resource
import sys

import torch


def peak_memory() -> int:
    """Bytes of the machine's memory that this process has held at most."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


def cuda_memory() -> dict[str, dict[str, int]]:
    """Device index → bytes ``allocated`` by tensors, ``reserved`` by PyTorch's allocator, and ``total`` of the device.

    Empty as long as this process does not use CUDA: asking must not be what makes it take memory there.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return {}
    return {
        str(index): {
            "allocated": torch.cuda.memory_allocated(index),
            "reserved": torch.cuda.memory_reserved(index),
            "total": torch.cuda.get_device_properties(index).total_memory,
        }
        for index in range(torch.cuda.device_count())
    }
