"""A year of runs in PostgreSQL, for :mod:`bench.scale`: rows of the real schema, copied from real jobs and varied."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

TABLES = ("jobs", "job_labels", "metric_points", "model_versions")
COLUMNS = (
    *("id", "kind", "status", "queue", "account", "spec", "register_as", "result", "error", "progress", "examples"),
    *("parent_id", "step_key", "attempt", "failures", "owner", "lease_until", "cancel_requested"),
    *("created_at", "started_at", "finished_at"),
)
QUEUES = {"pretrain": "train", "probe": "train", "train": "train"}
TRAINED = tuple(QUEUES)
MIX = {"pretrain": 8, "probe": 8, "train": 14, "evaluate": 40, "corruptions": 5, "protocol": 1, "sharded": 2}
"""Weights of what a client posts. A protocol brings its steps with it, a sharded evaluation its shards."""
STATUSES = {"succeeded": 92, "failed": 5, "cancelled": 3}
TEAMS = {"vision": 50, "speech": 20, "robotics": 15, "safety": 10, "audit": 5}
ACCOUNTS = {"vision-lab": 40, "speech-lab": 25, "robotics": 14, "students": 10, "closed": 10, "guest": 1}
"""``closed`` posted nothing in the last half of the year, and nothing of it ever failed."""
SERIES = ("loss", "lr", "clean_accuracy", "robust_accuracy")
MODELS = 2000
FAR = 4e9
"""A lease that no bench outlives, in epoch seconds."""


@dataclass
class Sample:
    """A real job's row: what the service itself wrote."""

    kind: str
    spec: dict[str, Any]
    result: dict[str, Any] | None
    progress: dict[str, Any] | None
    examples: list[Any] | None


@dataclass
class Year:
    """Makes the rows one after the other, oldest first; ``runs`` in all."""

    samples: Mapping[str, list[Sample]]
    runs: int
    shards: int
    """Of each of the large evaluations near the end: what a client's first page must not have to wade through."""
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    made: int = 0
    trained: int = 0
    labels: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.end = datetime.now(UTC) - timedelta(minutes=1)
        self.begin = self.end - timedelta(days=365)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        large = [self.runs - self.shards * 2 * number for number in range(1, 6)]
        while self.made < self.runs:
            if large and self.made >= large[-1]:
                large.pop()
                yield from self._sharded(self.shards, finished=len(large) > 0)
            elif self.runs - self.made < 350:
                kind, status = self._pick({"evaluate": 1, "train": 1}), self._pick({"queued": 6, "running": 1})
                yield self._single(kind, status=status)
            else:
                yield from self._posted(self._pick(MIX))

    def _posted(self, kind: str) -> Iterator[tuple[Any, ...]]:
        if kind == "sharded":
            yield from self._sharded(8, finished=True)
        elif kind == "protocol":
            yield from self._protocol()
        else:
            yield self._single(kind, status=self._pick(STATUSES))

    def _single(self, kind: str, *, status: str) -> tuple[Any, ...]:
        account = self._account(status)
        sample, labels = self.rng.choice(self.samples[kind]), self._labels(status)
        return self._row(sample, status=status, labels=labels, account=account)

    def _protocol(self) -> Iterator[tuple[Any, ...]]:
        labels, account = self._labels("succeeded"), self._account("succeeded")
        parent = self._row(self.samples["protocol"][0], status="succeeded", labels=labels, account=account, queue=None)
        yield parent
        for number, kind in enumerate(("train", "train", "pretrain", "probe", "evaluate", "evaluate", "evaluate")):
            sample = self.rng.choice(self.samples[kind])
            step = {"parent_id": parent[0], "step_key": f"{kind}:{number}", "account": account}
            yield self._row(sample, status="succeeded", labels=labels, **step)

    def _sharded(self, shards: int, *, finished: bool) -> Iterator[tuple[Any, ...]]:
        status = "succeeded" if finished else "running"
        labels, account = self._labels(status) or {"team": "audit"}, self._account(status)
        parent = self._row(self.samples["sharded"][0], status=status, labels=labels, account=account, queue=None)
        yield parent
        for index in range(shards):
            step = {"parent_id": parent[0], "step_key": f"shard:{index}", "account": account}
            state = "succeeded" if finished or index < shards * 0.4 else "queued"
            yield self._row(self.samples["shard"][0], status=state, labels=labels, **step)
        if finished:
            step = {"parent_id": parent[0], "step_key": "merge", "account": account}
            yield self._row(self.samples["merge"][0], status="succeeded", labels=labels, **step)

    def _row(
        self, sample: Sample, *, status: str, labels: Mapping[str, str], queue: str | None = "", **fields: Any
    ) -> tuple[Any, ...]:
        created = self.begin + (self.end - self.begin) * (self.made / self.runs)
        self.made += 1
        job_id = time_sorted_id(created, self.rng)
        self.labels += [(job_id, key, value) for key, value in labels.items()]
        done, begun = status in STATUSES, status != "queued"
        spec, result = self._varied(sample)
        values: dict[str, Any] = {
            "id": job_id,
            "kind": sample.kind,
            "status": status,
            "attempt": int(begun),
            "failures": 0,
            "queue": QUEUES.get(sample.kind, "evaluate") if queue == "" else queue,
            "spec": json.dumps(spec),
            "progress": json.dumps(sample.progress) if begun and sample.progress else None,
            "cancel_requested": False,
            "created_at": created,
            "started_at": created + timedelta(seconds=2) if begun else None,
            "finished_at": created + timedelta(minutes=20) if done else None,
            **fields,
        }
        if sample.kind in TRAINED and status == "succeeded":
            self.trained += 1
            values["register_as"] = model_name(self.trained)
        if status == "succeeded" and result is not None:
            values["result"] = json.dumps(result)
            values["examples"] = json.dumps(sample.examples) if sample.examples else None
        elif status == "failed":
            detail = f"loss is nan at step {self.rng.randrange(10_000)}"
            values["error"] = json.dumps({"type": "about:blank", "title": "The training diverged", "detail": detail})
        elif status == "running":
            values |= {"owner": "bench", "lease_until": FAR}
        return tuple(values.get(name) for name in COLUMNS)

    def _varied(self, sample: Sample) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Spec and result with another seed and, of an evaluation or a probe, a model that was trained before."""
        spec, result = dict(sample.spec), sample.result
        if "seed" in spec:
            spec["seed"] = self.made
        if "model" in spec and self.trained:
            number = self.rng.randint(1, self.trained)
            spec["model"] = f"{model_name(number)}@{(number - 1) // MODELS + 1}"
            if sample.kind == "evaluate" and result is not None:
                result = {**result, "model": spec["model"]}
        return spec, result

    def _labels(self, status: str) -> dict[str, str]:
        """Few keys; values from half of all jobs down to one alone. ``stage:archive`` is on old succeeded jobs only."""
        if self.rng.random() < 0.4:
            return {}
        labels = {"team": self._pick(TEAMS), "experiment": f"exp-{self.rng.randrange(max(1, self.runs // 50))}"}
        labels["user"] = f"user-{self.rng.randrange(200)}"
        if self.rng.random() < 0.05:
            labels["sweep"] = f"{self.rng.getrandbits(64):016x}"
        if self.rng.random() < 0.001:
            labels["priority"] = "high"
        if status == "succeeded" and self.made < self.runs / 2 and self.rng.random() < 0.6:
            labels["stage"] = "archive"
        return labels

    def _account(self, status: str) -> str:
        account = self._pick(ACCOUNTS)
        late = self.made > self.runs / 2 or status != "succeeded"
        return "vision-lab" if account == "closed" and late else account

    def _pick(self, weights: Mapping[str, int]) -> str:
        return self.rng.choices(list(weights), list(weights.values()))[0]


def model_name(number: int) -> str:
    """The name that the ``number``-th training registers its model under."""
    return f"model-{number % MODELS}"


def time_sorted_id(moment: datetime, rng: random.Random) -> str:
    """A UUIDv7 (RFC 9562) of this moment."""
    milliseconds = int(moment.timestamp() * 1000)
    value = milliseconds << 80 | 7 << 76 | rng.getrandbits(12) << 64 | 2 << 62 | rng.getrandbits(62)
    return f"{value:032x}"


def fill(connection: psycopg.Connection[Any], year: Year, *, points: int) -> None:
    """Write the runs, their labels, models and ``points`` metric points; keys and indexes are built afterwards.

    The table of the jobs' numbers of points gets its name last, and so tells that all the rest is there.
    """
    with without_keys(connection):
        with connection.cursor() as cursor, cursor.copy(f"COPY jobs ({', '.join(COLUMNS)}) FROM STDIN") as copy:
            for row in year.rows():
                copy.write_row(row)
        with connection.cursor() as cursor, cursor.copy("COPY job_labels (job_id, key, value) FROM STDIN") as copy:
            for label in year.labels:
                copy.write_row(label)
        print(f"{year.made:,} runs, {len(year.labels):,} labels", flush=True)
        _register_models(connection)
        _fill_metrics(connection, points)
    connection.execute("VACUUM (ANALYZE)")
    connection.execute("ALTER TABLE bench_unfinished RENAME TO bench_sizes")


def is_filled(connection: psycopg.Connection[Any]) -> bool:
    """Whether :func:`fill` came to its end."""
    return connection.execute("SELECT to_regclass('bench_sizes')").fetchone() != (None,)


@contextmanager
def submissions(connection: psycopg.Connection[Any]) -> Iterator[str]:
    """The newest job's id; what is submitted while the block lasts is gone afterwards."""
    (newest,) = connection.execute("SELECT max(id) FROM jobs").fetchone() or ("",)
    try:
        yield newest
    finally:
        connection.execute("DELETE FROM jobs WHERE id > %s", (newest,))
        connection.execute("TRUNCATE idempotency_keys")


def _register_models(connection: psycopg.Connection[Any]) -> None:
    connection.execute(
        "INSERT INTO models (name, next_version, created_at) SELECT register_as, count(*) + 1, min(created_at)"
        " FROM jobs WHERE register_as LIKE 'model-%' GROUP BY 1"
    )
    connection.execute(
        "INSERT INTO model_versions (name, version, sha256, size, card, metrics, job_id, created_at)"
        " SELECT register_as, row_number() OVER (PARTITION BY register_as ORDER BY id), md5(id) || md5(register_as),"
        " 44000000, (SELECT card FROM model_versions ORDER BY created_at LIMIT 1), '{}', id, created_at"
        " FROM jobs WHERE register_as LIKE 'model-%'"
    )


def _fill_metrics(connection: psycopg.Connection[Any], points: int) -> None:
    """A tenth of the points is in jobs of up to a million each, a fifth in jobs of 100,000, the rest spread evenly."""
    trained = f"SELECT id FROM jobs WHERE kind IN {TRAINED} AND status = 'succeeded'"
    (many,) = connection.execute(f"SELECT count(*) FROM ({trained}) AS each").fetchone() or (0,)
    sizes = {
        "largest": (max(1, points // 10_000_000), min(1_000_000, points // 10)),
        "large": (max(1, points // 500_000), min(100_000, points // 100)),
    }
    connection.execute("CREATE TABLE bench_unfinished (id varchar(32), size text, steps int)")
    for size, (jobs, each) in sizes.items():
        connection.execute(
            f"INSERT INTO bench_unfinished SELECT id, '{size}', {each // len(SERIES)} FROM ({trained}) AS each"
            f" WHERE id NOT IN (SELECT id FROM bench_unfinished) ORDER BY md5(id) LIMIT {jobs}"
        )
    left = points - sum(jobs * each for jobs, each in sizes.values())
    steps = math.ceil(left / many / len(SERIES))
    connection.execute(
        f"INSERT INTO bench_unfinished SELECT id, 'typical', {steps} FROM ({trained}) AS each"
        " WHERE id NOT IN (SELECT id FROM bench_unfinished)"
    )
    connection.execute("SET join_collapse_limit = 1")  # rows are written in the order of the joins below
    names = ", ".join(f"('{name}')" for name in SERIES)
    value = "2.3 / (1 + step * 0.001) + random() * 0.01"
    # Jobs that run for days arrive side by side, a hundred steps of each at a time; short ones one after the other.
    connection.execute(
        f"INSERT INTO metric_points (job_id, series, step, value) SELECT j.id, name, step, {value}"
        " FROM generate_series(0, (SELECT max(steps) FROM bench_unfinished) / 100) AS block"
        " CROSS JOIN LATERAL (SELECT * FROM bench_unfinished WHERE size <> 'typical' AND steps > block * 100) AS j"
        " CROSS JOIN LATERAL generate_series(block * 100 + 1, least((block + 1) * 100, j.steps)) AS step"
        f" CROSS JOIN (VALUES {names}) AS s (name)"
    )
    connection.execute(
        f"INSERT INTO metric_points (job_id, series, step, value) SELECT j.id, name, step, {value}"
        " FROM (SELECT * FROM bench_unfinished WHERE size = 'typical' ORDER BY id) AS j"
        " CROSS JOIN LATERAL generate_series(10, j.steps * 10, 10) AS step"
        f" CROSS JOIN (VALUES {names}) AS s (name)"
    )
    connection.execute("RESET join_collapse_limit")
    print("metric points written; keys and indexes follow", flush=True)


@contextmanager
def without_keys(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Drop the tables' keys and indexes, and make them again as they were: building them once is much quicker."""
    listed = ", ".join(f"'{table}'::regclass" for table in TABLES)
    constraints = connection.execute(
        "SELECT conrelid::regclass, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        f" WHERE contype = 'f' AND (conrelid IN ({listed}) OR confrelid IN ({listed}))"
        f" OR contype IN ('p', 'u') AND conrelid IN ({listed}) ORDER BY contype = 'f', contype = 'u'"
    ).fetchall()
    for table, name, _ in reversed(constraints):
        connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    indexes = connection.execute(
        f"SELECT indexrelid::regclass, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid IN ({listed})"
    ).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    yield
    for table, name, definition in constraints:
        connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
    for _, definition in indexes:
        connection.execute(definition)
