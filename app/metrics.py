"""What the metrics of the API and of the workers have in common."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Info, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

DeviceMemory = Mapping[str, Mapping[str, int]]
"""Device → ``allocated``, ``reserved`` and ``total`` bytes."""
_MEANINGS = {
    "allocated": "Bytes that tensors hold on a CUDA device.",
    "reserved": "Bytes that PyTorch's allocator holds on a CUDA device.",
    "total": "Bytes that a CUDA device has.",
}


def new_registry() -> CollectorRegistry:
    """A registry that tells of this process and of what runs in it.

    Never the global one, so that several applications in one process stay apart.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    build = Info("clead_build", "What runs here.", registry=registry)
    build.info({"version": version("clead"), "torch": version("torch"), "python": platform.python_version()})
    return registry


class GpuMemory(Collector):
    """Reports what ``read`` answers at a scrape; nothing without a CUDA device in use."""

    def __init__(self, read: Callable[[], DeviceMemory]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        devices = self._read()
        for kind, meaning in _MEANINGS.items():
            family = GaugeMetricFamily(f"clead_gpu_memory_{kind}_bytes", meaning, labels=("device",))
            for device, memory in devices.items():
                family.add_metric((device,), memory[kind])
            if devices:
                yield family
