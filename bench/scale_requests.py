"""What :mod:`bench.scale` asks of the API."""

from __future__ import annotations

import random
import uuid
from typing import Any

import psycopg

from app.services.paging import make_cursor
from bench.scale_data import ACCOUNTS, TEAMS, TRAINED
from bench.scale_load import Request, Route

LIST_MS, SUBMIT_MS = 100.0, 50.0
DEEP = 10_000 * 50
LISTS = {
    "list": "",
    "list, limit=200": "?limit=200",
    "list, kind": "?kind=train",
    "list, status=queued": "?status=queued",
    "list, status=failed": "?status=failed",
    "list, kind and status": "?kind=pretrain&status=failed",
    "list, rare label": "?label=priority:high",
    "list, label that no job has": "?label=team:nobody",
    "list, label, status and kind": "?label=team:vision&status=failed&kind=evaluate",
    "list, label and rare status": "?label=team:speech&status=queued",
    "list, label and status, no such job": "?label=stage:archive&status=failed",
    "list, two labels": "?label=team:audit&label=stage:archive",
}
OWN_LISTS = {
    "own list": ("", None),
    "own list, an account with few jobs": ("", "guest"),
    "own list, status=failed": ("?status=failed", None),
    "own list, status, no such job": ("?status=failed", "closed"),
    "own list, kind and status, no such job": ("?kind=evaluate&status=failed", "closed"),
    "own list, label and status, no such job": ("?label=stage:archive&status=failed", "closed"),
}
PRETRAIN: dict[str, Any] = {
    "method": "clead",
    "backbone": {"name": "resnet18", "width": 64},
    "dataset": {"name": "cifar10"},
    "views": [{"name": name, "eps": "8/255", "steps": 5, "step_size": "2/255"} for name in ("pgd", "cw")],
    "labels": {"team": "vision", "experiment": "submitted"},
}
EVALUATE: dict[str, Any] = {
    "model": "victim@1",
    "dataset": {"name": "bench", "subset": 500},
    "attacks": [{"name": "fgsm", "eps": "8/255"}, {"name": "pgd", "eps": "8/255", "steps": 20}],
    "labels": {"team": "vision", "experiment": "submitted"},
}


class Requests:
    """Requests with parts drawn from the database, so that they do not all meet the same pages of it."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._rng = random.Random(1)
        succeeded = "status = 'succeeded'"
        self._jobs = self._column("SELECT id FROM jobs WHERE kind NOT IN ('shard', 'merge') ORDER BY id DESC")
        self._evaluations = self._column(f"SELECT id FROM jobs WHERE kind = 'evaluate' AND {succeeded}")
        self._typical = self._column(f"SELECT id FROM jobs WHERE kind IN {TRAINED} AND {succeeded}")
        self._large = self._column("SELECT id FROM bench_sizes WHERE size = 'large'")
        self._largest = self._column("SELECT id FROM bench_sizes WHERE size = 'largest'")
        self._experiments = self._column("SELECT DISTINCT value FROM job_labels WHERE key = 'experiment'")

    def _column(self, query: str) -> list[str]:
        return [row[0] for row in self._connection.execute(query)]

    def lists(self) -> list[Route]:
        """Pages of jobs, filtered or not: all jobs for the operator, and an account's own."""
        one = self._rng.choice
        deep = self._jobs[min(DEEP, len(self._jobs) // 2) :]
        routes = [Route(name, lambda query=query: Request(f"/jobs{query}"), LIST_MS) for name, query in LISTS.items()]
        routes += [
            Route("list, page 10,000 and deeper", lambda: Request(f"/jobs?cursor={make_cursor(one(deep))}"), LIST_MS),
            Route("list, frequent label", lambda: Request(f"/jobs?label=team:{one(list(TEAMS))}"), LIST_MS),
            Route(
                "list, label of some 30 jobs",
                lambda: Request(f"/jobs?label=experiment:{one(self._experiments)}"),
                LIST_MS,
            ),
        ]
        for name, (query, account) in OWN_LISTS.items():

            def own(query: str = query, account: str | None = account) -> Request:
                return Request(f"/jobs{query}", account=account or one(list(ACCOUNTS)))

            routes.append(Route(name, own, LIST_MS))
        return routes

    def jobs(self) -> list[Route]:
        """One job, its metrics and events, and comparisons."""
        one = self._rng.choice

        def compared() -> Request:
            return Request(f"/compare?jobs={','.join(self._rng.sample(self._evaluations, 10))}")

        return [
            Route("one job", lambda: Request(f"/jobs/{one(self._jobs)}"), LIST_MS),
            Route("metrics, typical job", lambda: Request(f"/jobs/{one(self._typical)}/metrics?points=500"), LIST_MS),
            Route("metrics, large job", lambda: Request(f"/jobs/{one(self._large)}/metrics?points=500"), LIST_MS),
            Route("metrics, largest job", lambda: Request(f"/jobs/{one(self._largest)}/metrics?points=500"), LIST_MS),
            Route(
                "events, first byte", lambda: Request(f"/jobs/{one(self._typical)}/events", first_byte=True), LIST_MS
            ),
            Route("compare 10 evaluations", compared, LIST_MS),
        ]

    def whole(self) -> list[Route]:
        """Every point of 100,000: megabytes, for which nothing is required."""
        return [
            Route(
                "metrics, large job, every point",
                lambda: Request(f"/jobs/{self._rng.choice(self._large)}/metrics"),
                None,
            )
        ]

    def submitting(self) -> list[Route]:
        """Pretraining and evaluations, each with a seed of its own."""

        def post(path: str, body: dict[str, Any], keyed: bool) -> Request:
            seed = self._rng.randrange(2**31)
            changed = {"dataset": {**body["dataset"], "seed": seed}} if path == "/evaluate" else {"seed": seed}
            return Request(path, {**body, **changed}, key=uuid.uuid4().hex if keyed else None)

        return [
            Route(
                f"submit {path}{', with a key' if keyed else ''}",
                lambda path=path, body=body, keyed=keyed: post(path, body, keyed),
                SUBMIT_MS,
            )
            for path, body in (("/jobs/pretrain", PRETRAIN), ("/evaluate", EVALUATE))
            for keyed in (False, True)
        ]
