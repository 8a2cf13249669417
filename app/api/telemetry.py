"""Prometheus metrics of one API process."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from prometheus_client import Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from app.api.dependencies import Resources
from app.metrics import GpuMemory, new_registry
from app.queue import QUEUES
from app.services import load, workers
from app.serving.metrics import InferenceMetrics
from models.device_memory import cuda_memory

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Telemetry:
    """Counters of this process, and at every scrape the state of what it serves."""

    def __init__(self) -> None:
        self._registry = new_registry()
        names = ("method", "route")
        self.requests = Counter(
            "clead_http_requests", "Answered requests.", (*names, "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "clead_http_request_seconds",
            "Seconds from a request's arrival to the end of its answer.",
            names,
            registry=self._registry,
            buckets=BUCKETS,
        )
        self.inference = InferenceMetrics(self._registry)
        self._registry.register(GpuMemory(cuda_memory))
        self.let_in: set[str] = set()
        """Digests of the tokens, and addresses without one, that may scrape: of use while the database is away."""

    def observe(self, resources: Resources) -> None:
        """Report the state of ``resources`` at every scrape."""
        self._registry.register(_Serving(resources))
        self._registry.register(_Database(resources))

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _Serving(Collector):
    def __init__(self, resources: Resources) -> None:
        self._engine = resources.engine

    def collect(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "clead_inference_images",
            "Images admitted and not yet answered; one of more than 3 x 224 x 224 values counts as several.",
            value=self._engine.batcher.admitted,
        )
        yield GaugeMetricFamily("clead_models_loaded", "Model versions in memory.", value=len(self._engine.loaded))


class _Database(Collector):
    """What the rows tell. Every API process tells the same: take the maximum over the processes, not the sum."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._finished = load.FinishedJobs()
        self._one = threading.Lock()  # scrapes that pile up must not take all connections

    def describe(self) -> Iterable[Metric]:
        return []  # without this, registration would already read the database

    def collect(self) -> Iterable[Metric]:
        with self._one:
            try:
                with self._resources.database.session() as session:
                    families = list(self._read(session))
            except SQLAlchemyError:
                families = []
        yield GaugeMetricFamily("clead_database_up", "Whether the database answers.", value=bool(families))
        yield from families

    def _read(self, session: Session) -> Iterable[Metric]:
        jobs = GaugeMetricFamily("clead_jobs", "Unfinished jobs by kind and status.", labels=("kind", "status"))
        for names, count in load.unfinished_jobs(session).items():
            jobs.add_metric(names, count)
        yield jobs
        finished = GaugeMetricFamily("clead_jobs_finished", "Finished jobs by status.", labels=("status",))
        for status, count in self._finished.read(session).items():
            finished.add_metric((status,), count)
        yield finished
        age = GaugeMetricFamily(
            "clead_queue_age_seconds", "Age of the oldest job that a worker could take now.", labels=("queue",)
        )
        oldest = load.oldest_waiting(session)
        for queue in QUEUES:
            age.add_metric((queue,), oldest[queue].total_seconds() if queue in oldest else 0.0)
        yield age
        alive = workers.seen_lately(session, seconds=self._resources.settings.lease_seconds)
        serving = GaugeMetricFamily("clead_workers", "Workers seen lately, by queue.", labels=("queue",))
        for queue in QUEUES:
            serving.add_metric((queue,), sum(queue in worker.queues for worker in alive))
        yield serving
        yield GaugeMetricFamily(
            "clead_leases_expired", "Running jobs whose worker is gone.", value=len(load.expired_leases(session))
        )
