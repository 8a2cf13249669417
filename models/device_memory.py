"""Memory of the CUDA devices as this process's PyTorch sees it."""

from __future__ import annotations

import torch


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
