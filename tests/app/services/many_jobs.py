"""Many random jobs, and the statements that are sent beside them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event, insert

from app.records import Job, JobLabel, new_id
from app.records.session import Database

KINDS = ("train", "evaluate", "protocol", "shard", "merge")
STATUSES = ("queued", "running", "succeeded", "failed", "cancelled")
ACCOUNTS = ("alice", "bob", None)
SPEC = {"method": "standard", "as wide as": "a real one " * 50}


@dataclass(frozen=True)
class Made:
    id: str
    kind: str
    status: str
    account: str | None
    labels: dict[str, str]


def make(database: Database, count: int, *, final: float = 0.0, seed: int = 0) -> list[Made]:
    """Random jobs, the newest first; ``final``: the share that has succeeded for sure."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        labels = {"team": rng.choice("abc"), "n": str(number % 50)}
        if rng.random() < 0.3:
            labels.pop("team")
        status = "succeeded" if rng.random() < final else rng.choice(STATUSES)
        found.append(Made(new_id(), rng.choice(KINDS), status, rng.choice(ACCOUNTS), labels))
    rows = [
        {"id": job.id, "kind": job.kind, "status": job.status, "account": job.account, "spec": SPEC, "queue": "train"}
        for job in found
    ]
    labels = [{"job_id": job.id, "key": key, "value": value} for job in found for key, value in job.labels.items()]
    with database.writing() as session:
        session.execute(insert(Job), rows)
        session.execute(insert(JobLabel), labels)
    return sorted(found, key=lambda job: job.id, reverse=True)


@contextmanager
def statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """The statements that the block sends, with their parameters."""
    found: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        found.append((statement, parameters))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
