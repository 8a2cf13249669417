"""Prometheus metrics of one API process, and the middleware that counts its requests."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.dependencies import Resources
from app.records import Job

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Telemetry:
    """Counters of this process; a registry of its own, so that several applications in one process stay apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        names = ("method", "route")
        self.requests = Counter("clead_http_requests", "Answered requests.", (*names, "status"), registry=self.registry)
        self.seconds = Histogram(
            "clead_http_request_seconds",
            "Seconds from a request's arrival to the end of its answer.",
            names,
            registry=self.registry,
            buckets=BUCKETS,
        )

    def observe(self, resources: Resources) -> None:
        """Report the state of ``resources`` at every scrape."""
        self.registry.register(_State(resources))

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _State(Collector):
    """What is read at a scrape rather than counted."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    def describe(self) -> Iterable[Metric]:
        return []  # without this, registration would already read the database

    def collect(self) -> Iterable[Metric]:
        jobs = GaugeMetricFamily("clead_jobs", "Jobs by kind and status.", labels=("kind", "status"))
        with self._resources.database.session() as session:
            rows = session.execute(select(Job.kind, Job.status, func.count()).group_by(Job.kind, Job.status)).all()
        for kind, status, count in rows:
            jobs.add_metric((kind, status), count)
        yield jobs
        engine = self._resources.engine
        yield GaugeMetricFamily(
            "clead_inference_images", "Images admitted and not yet answered.", value=engine.batcher.admitted
        )
        yield GaugeMetricFamily("clead_models_loaded", "Model versions in memory.", value=len(engine.loaded))


class CountRequests:
    """Counts each request under its route's pattern: paths hold ids, and would make a series each."""

    def __init__(self, app: ASGIApp, *, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if route != "unknown" else "unknown"
            self._telemetry.requests.labels(method, route, str(status)).inc()
            self._telemetry.seconds.labels(method, route).observe(time.monotonic() - began)
