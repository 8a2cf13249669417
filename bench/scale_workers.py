"""How workers keep up, for :mod:`bench.scale`: a thousand queued jobs, and how soon a laptop's one job begins."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg

from app.records import FINAL
from bench.scale_data import submissions
from bench.scale_load import cpu_seconds
from bench.scale_service import Servers

WORKERS = 4
LIGHT: dict[str, Any] = {
    "model": "victim@1",
    "dataset": {"name": "bench", "subset": 20},
    "attacks": [{"name": "fgsm", "eps": "8/255"}],
    "examples": 0,
}
"""An evaluation that computes for some hundredths of a second: what is left is what every job costs."""
PICK_UP: dict[str, Any] = {
    "method": "standard",
    "backbone": {"name": "resnet18", "width": 4, "blocks": [1]},
    "dataset": {"name": "digits"},
    "augmentation": {"crop_padding": 0, "flip": False},
    "batch_size": 64,
    "epochs": 200,
}


def drain(servers: Servers, *, jobs: int) -> dict[str, Any]:
    """Queue so many real jobs, then start the workers; what became of each, and how long it took."""
    with (
        servers.connect() as connection,
        put_aside(connection),
        submissions(connection) as newest,
        servers.api() as api,
        api.client() as client,
    ):
        posted = set()
        for seed in range(jobs):
            body = {**LIGHT, "dataset": {**LIGHT["dataset"], "seed": seed}}
            posted.add(client.post("/evaluate", json=body).raise_for_status().json()["id"])
        began = time.monotonic()
        with ExitStack() as stack:
            workers = [stack.enter_context(servers.process("-m", "worker.main")) for _ in range(WORKERS)]
            while (left := _unfinished(connection, newest)) > 0:
                print(f"\rdrain: {left} of {jobs} left ", end="", flush=True)
                time.sleep(1)
            seconds = time.monotonic() - began
            cpu = sum(cpu_seconds(worker.pid, ended=True) for worker in workers)
        print()
        rows = connection.execute(
            "SELECT id, status, attempt, failures, result IS NOT NULL FROM jobs WHERE id > %s", (newest,)
        ).fetchall()
    return {
        "jobs": jobs,
        "workers": WORKERS,
        "lost": len(posted - {row[0] for row in rows if row[1] in FINAL}),
        "not_of_ours": len({row[0] for row in rows} - posted),
        "succeeded_at_the_first_attempt": sum(row[1:] == ("succeeded", 1, 0, True) for row in rows),
        "seconds": round(seconds, 1),
        "cpu_seconds_a_job": round(cpu / jobs, 2),
        "cpu_seconds_of_a_childs_imports": _import_seconds(),
    }


@contextmanager
def put_aside(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Take the queued jobs of the made-up year out of the workers' way for as long as the block lasts."""
    query = "UPDATE jobs SET status = 'cancelled' WHERE status = 'queued' RETURNING id"
    ids = [row[0] for row in connection.execute(query)]
    try:
        yield
    finally:
        connection.execute("UPDATE jobs SET status = 'queued' WHERE id = ANY(%s)", (ids,))


def _unfinished(connection: psycopg.Connection[Any], newest: str) -> int:
    query = "SELECT count(*) FROM jobs WHERE id > %s AND status IN ('queued', 'running')"
    return int((connection.execute(query, (newest,)).fetchone() or (0,))[0])


def _import_seconds() -> float:
    """CPU seconds that a job's process takes before it looks at its job: mostly torch."""
    code = "import time, worker.runs; print(time.process_time())"
    times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3)]
    return round(statistics.median(times), 2)


def pick_up(folder: Path, *, times: int) -> dict[str, Any]:
    """How soon after its creation ``clead serve`` has begun a job: by the job's own times, and as a client sees it."""
    told, seen = [], []
    with _serving(folder / "laptop") as client:
        for _ in range(times):
            began = time.monotonic()
            job = client.post("/jobs/train", json=PICK_UP).raise_for_status().json()
            while job["status"] == "queued":
                time.sleep(0.01)
                job = client.get(f"/jobs/{job['id']}").json()
            seen.append(time.monotonic() - began)
            told.append((_time(job["started_at"]) - _time(job["created_at"])).total_seconds())
            client.post(f"/jobs/{job['id']}/cancel")
            while job["status"] not in FINAL:
                time.sleep(0.05)
                job = client.get(f"/jobs/{job['id']}").json()
    return {"times": times, "created_to_started": _spread(told), "as_a_client_sees_it": _spread(seen)}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _spread(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    shares = {"p50": 0.5, "p95": 0.95}
    found = {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in shares.items()}
    return {name: round(value, 3) for name, value in {**found, "max": ordered[-1]}.items()}


@contextmanager
def _serving(home: Path) -> Iterator[httpx.Client]:
    """A client of ``clead serve`` on SQLite and folders, with its settings as they are for everybody."""
    command = [sys.executable, "-m", "app.cli", "serve", "--home", str(home), "--port", "0"]
    environment = os.environ | {"CLEAD_DEVICE": "cpu"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    try:
        assert process.stdout is not None
        address = next(found.group() for line in process.stdout if (found := re.search(r"http://[\d.]+:\d+", line)))
        with httpx.Client(base_url=address, timeout=60) as client:
            while client.get("/readyz").status_code != 200:
                time.sleep(0.2)
            yield client
    finally:
        process.terminate()
        process.wait()
