"""The jobs of a soak, and a client that submits them as a careful one does: with a key, again and again until 202."""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.records import FINAL
from tests.soak.installation import Installation
from tests.system.trainings import PRETRAIN

UNFINISHED = 4
"""Jobs that are kept waiting or running: more than there are workers."""
BALL = {"eps": 0.1, "step_size": 0.02}
TRAIN = {
    "method": "pgd-at",
    **{name: PRETRAIN[name] for name in ("backbone", "dataset", "augmentation", "optimizer", "batch_size")},
    "precision": "float32",
    "attack": {"name": "pgd", **BALL, "steps": 3},
    "epochs": 10,
}
EVALUATE = {
    "model": "tiny@1",
    "dataset": {"name": "digits", "subset": 150},
    "attacks": [{"name": "pgd", **BALL, "steps": 20}, {"name": "cw-linf", "eps": 0.05, "steps": 60}],
    "examples": 4,
    "precision": "float32",
}
PROTOCOL = {
    "preset": "quick",
    "dataset": {"name": "digits", "subset": 640},
    "methods": ["standard"],
    "attacks": [{"name": "fgsm", "eps": 0.2}],
}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "pretrain": ("/jobs/pretrain", {**PRETRAIN, "epochs": 10}),
    "train": ("/jobs/train", TRAIN),
    "evaluate": ("/evaluate", EVALUATE),
    "shards": ("/evaluate", {**EVALUATE, "shard_size": 50}),
    "protocol": ("/jobs/protocol", PROTOCOL),
}
NAMED = {"/jobs/pretrain": "register_as", "/jobs/train": "register_as", "/jobs/protocol": "register_prefix"}


@dataclass
class Submitted:
    """A job that the service has accepted, and which body it was made from."""

    name: str
    id: str
    status: str = "queued"


@dataclass
class Client:
    """``complaints``: answers that no client should get, whatever dies behind the API."""

    service: Installation
    jobs: list[Submitted] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    waiting: int = 0
    """Requests that the API has not answered yet."""
    repeats: int = 0

    def submit(self, name: str, *, register_as: str | None = None) -> Submitted:
        """Post the body called ``name``; its models get a name that no other job's have."""
        path, body = BODIES[name]
        key = uuid.uuid4().hex
        named = {NAMED[path]: register_as or f"{name}-{key[:8]}"} if path in NAMED else {}
        answer = self._until(202, "POST", path, json={**body, **named}, headers={"Idempotency-Key": key})
        job = Submitted(name, answer["id"])
        self.jobs.append(job)
        return job

    def refresh(self) -> list[Submitted]:
        """Ask for the unfinished jobs; those that are unfinished still."""
        for job in self.jobs:
            if job.status not in FINAL:
                job.status = self._until(200, "GET", f"/jobs/{job.id}")["status"]
        return [job for job in self.jobs if job.status not in FINAL]

    def _until(self, status: int, method: str, path: str, **request: Any) -> Any:
        deadline = time.monotonic() + 300
        while True:
            self.waiting += 1
            try:
                response = httpx.request(method, self.service.url + path, timeout=30, **request)
            except httpx.TransportError:
                response = None
            finally:
                self.waiting -= 1
            if response is not None and response.status_code == status:
                return response.json()
            if response is not None and response.status_code != 503:
                self.complaints.append(f"{method} {path}: {response.status_code} {response.text[:300]}")
            assert time.monotonic() < deadline, f"{method} {path} was not answered"
            self.repeats += 1
            time.sleep(0.2)


class Load(threading.Thread):
    """Keeps jobs of every kind in the queue, in turn, until told to end."""

    def __init__(self, client: Client) -> None:
        super().__init__(name="load", daemon=True)
        self.client = client
        self.error: BaseException | None = None
        self._end = threading.Event()

    def run(self) -> None:
        names = itertools.cycle(BODIES)
        try:
            while not self._end.is_set():
                if len(self.client.refresh()) < UNFINISHED:
                    self.client.submit(next(names))
                self._end.wait(0.1)
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        """No further jobs; raises what went wrong."""
        self._end.set()
        self.join()
        if self.error is not None:
            raise self.error
