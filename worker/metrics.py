"""What one worker counts for Prometheus, and its own small server for it."""

from __future__ import annotations

import signal
from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from app.metrics import DeviceMemory, GpuMemory, new_registry

_JOB_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 48 * 3600)
_STORE_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300)


class WorkerMetrics:
    """Counters of this process. What the running job reports is there only while it runs."""

    def __init__(self) -> None:
        self._registry = registry = new_registry()
        self._memory: DeviceMemory = {}
        registry.register(GpuMemory(lambda: self._memory))
        self._ended = Counter(
            "clead_worker_attempts", "Attempts at jobs that ended here.", ("kind", "outcome"), registry=registry
        )
        self._seconds = Histogram(
            "clead_worker_attempt_seconds",
            "Seconds of one attempt at a job, inputs fetched and outcome known.",
            ("kind",),
            registry=registry,
            buckets=_JOB_SECONDS,
        )
        self.taken_over = Counter(
            "clead_worker_jobs_taken_over", "Jobs claimed from a worker whose lease ran out.", registry=registry
        )
        self.given_up = Counter(
            "clead_worker_jobs_given_up",
            "Jobs ended here because their workers had died too often, or before they could be cancelled.",
            registry=registry,
        )
        self._deaths = Counter(
            "clead_worker_child_deaths",
            "Job processes that died, by signal; EXIT: by themselves.",
            ("cause",),
            registry=registry,
        )
        self.leases_lost = Counter(
            "clead_worker_leases_lost", "Attempts given up because their lease ran out.", registry=registry
        )
        self.renewals_failed = Counter(
            "clead_worker_lease_renewals_failed", "Renewals that the database did not take.", registry=registry
        )
        self.checkpoint_seconds = Histogram(
            "clead_worker_checkpoint_seconds",
            "Seconds to bring a checkpoint into the storage.",
            registry=registry,
            buckets=_STORE_SECONDS,
        )
        self.checkpoint_bytes = Counter(
            "clead_worker_checkpoint_bytes", "Bytes of checkpoints brought into the storage.", registry=registry
        )
        self.checkpoints_failed = Counter(
            "clead_worker_checkpoints_failed", "Checkpoints that the storage did not take.", registry=registry
        )
        self.busy = Gauge("clead_worker_busy", "1 while a job runs here.", registry=registry)
        self.images_per_second = Gauge(
            "clead_worker_images_per_second", "Of the training that runs here; else 0.", registry=registry
        )
        self.progress = Gauge(
            "clead_worker_job_progress_ratio", "Of the job that runs here, from 0 to 1.", registry=registry
        )

    def serve(self, host: str, port: int) -> Callable[[], None]:
        """Answer scrapes in a thread; returns what ends that. Raises OSError if the address is not to be had."""
        server, _ = start_http_server(port, host, self._registry)

        def close() -> None:
            server.shutdown()
            server.server_close()

        return close

    def device_memory(self, memory: DeviceMemory) -> None:
        """Memory of the devices, as the job's process sees it."""
        self._memory = memory

    def attempt_ended(self, kind: str, outcome: str, *, seconds: float) -> None:
        """Count it; what the job's process reported is no longer true."""
        self._ended.labels(kind, outcome).inc()
        self._seconds.labels(kind).observe(seconds)
        self._memory = {}
        for gauge in (self.images_per_second, self.progress):
            gauge.set(0)

    def child_died(self, status: int) -> None:
        """Count a job's process by its exit status; negative: the signal that killed it."""
        name = signal.Signals(-status).name if -status in signal.valid_signals() else "EXIT"
        self._deaths.labels(name).inc()
