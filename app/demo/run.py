"""`clead demo`: the service's main job on real images, through its own HTTP interface, in a home of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from app.client import ApiError, Client
from app.demo import report

METHODS = ["standard", "clead", "pgd-at"]
COMPARED_BY_CLASSIFY = ("standard", "clead")
IMAGES_CLASSIFIED = 6

NEXT = """
Next:
  CLEAD_HOME={home} .venv/bin/clead serve
      the page, the API (/docs) and the models that were just trained
  docs/first-model.md
      your own images: upload a zip, train, attack, serve"""


class DemoError(Exception):
    """The demo could not be finished; the text says why and where the log lies."""


def run(home: Path, *, seed: int, fresh: bool, console: Console) -> None:
    """Train, attack, compare and classify; writes ``report.json``, ``report.md`` and ``report.html`` into ``home``.

    A demo that was interrupted goes on where it was; a finished one is shown again unless ``fresh``.
    Raises :class:`DemoError`.
    """
    home.mkdir(parents=True, exist_ok=True)
    console.print("Starting the service …")
    with service(home) as url, Client(url) as client:
        try:
            client.wait_until_ready(seconds=90)
            job = _submit(client, seed=seed, fresh=fresh)
            if job["status"] == "succeeded":
                console.print(
                    "This demo was run before; here are its results again (`clead demo --fresh` trains anew)."
                )
            else:
                console.print(f"Job {job['id']} at {url} trains, probes and attacks {len(METHODS)} models on digits.")
                job = _watch(client, job, console)
            if job["status"] != "succeeded":
                raise DemoError(f"the job ended as {job['status']}: {(job['error'] or {}).get('detail', 'no detail')}")
            classified = _classify(client, job["result"]["rows"])
        except (ApiError, TimeoutError, httpx.TransportError) as error:
            raise DemoError(f"{error}\nThe service's log: {home / 'service.log'}") from error
    paths = report.write(home, job=job, classified=classified)
    report.show(console, job=job, classified=classified)
    console.print(f"\nReports: {', '.join(str(path) for path in paths)}")
    console.print(NEXT.format(home=home / "service"), highlight=False)


@contextmanager
def service(home: Path) -> Iterator[str]:
    """`clead serve` on a free port with its data in ``home/service``; yields its address.

    For a main thread: SIGTERM is an interrupt meanwhile, so that the service never outlives who started it.
    """
    command = [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--home", str(home / "service")]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (home / "service.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            yield _address(process, log_path=home / "service.log")
        finally:
            process.terminate()
            process.wait()
            signal.signal(signal.SIGTERM, before)


def _address(process: subprocess.Popen[str], *, log_path: Path) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"http://\S+", line):
            return found.group()
    raise DemoError(f"the service did not start:\n{log_path.read_text()[-2000:]}")


def _submit(client: Client, *, seed: int, fresh: bool) -> dict[str, Any]:
    """The demo's job: the one of an earlier run where there is one, resumed if it had stopped."""
    body = {"preset": "quick", "dataset": {"name": "digits"}, "methods": METHODS, "seed": seed}
    version = client.get("/version")["version"]
    key = f"demo-{uuid.uuid4()}" if fresh else f"demo-{version}-seed-{seed}"
    job: dict[str, Any] = client.get(f"/jobs/{client.post('/jobs/protocol', body, idempotency_key=key)['id']}")
    if job["status"] in {"failed", "cancelled"}:
        job = client.post(f"/jobs/{job['id']}/resume")
    return job


def _watch(client: Client, job: dict[str, Any], console: Console) -> dict[str, Any]:
    """Progress bars until the job is final: one for each child, as the children appear."""
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}
        finished: set[str] = set()
        for state in client.follow(job["id"]):
            job = state
            for child_id in job["children"]:
                if child_id in finished:
                    continue
                child = client.get(f"/jobs/{child_id}")
                if child_id not in tasks:
                    tasks[child_id] = bars.add_task(_describe(child), start=False, total=None)
                _draw(bars, tasks[child_id], child)
                if child["status"] == "succeeded":
                    finished.add(child_id)
    return job


def _draw(bars: Progress, task: TaskID, child: dict[str, Any]) -> None:
    if child["status"] == "queued":
        return
    bars.start_task(task)
    progress = child["progress"] or {}
    total = progress.get("total")
    done = total if child["status"] == "succeeded" else progress.get("done", 0)
    bars.update(task, completed=done, total=total)
    if child["status"] not in {"running", "queued"}:
        bars.stop_task(task)


def _describe(child: dict[str, Any]) -> str:
    spec = child["spec"]
    if child["kind"] == "evaluate":
        return f"attack {spec['model']}"
    return f"{child['kind']} {spec.get('method') or spec.get('model')}"


def _classify(client: Client, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A few test images, clean and attacked (each model by attacks on itself), sent to ``POST /classify``."""
    shown: list[dict[str, Any]] = []
    for row in rows:
        if row["method"] not in COMPARED_BY_CLASSIFY:
            continue
        examples = client.get(f"/jobs/{row['evaluation']}/examples")["items"][:IMAGES_CLASSIFIED]
        files = [(kind, client.content(example[kind])) for example in examples for kind in ("clean", "adversarial")]
        predictions = client.classify(files, model=row["model"], top_k=1)["predictions"]
        for number, example in enumerate(examples):
            clean, adversarial = predictions[2 * number], predictions[2 * number + 1]
            shown.append(
                {
                    "method": row["method"],
                    "model": row["model"],
                    "image": example["index"],
                    "attack": example["attack"],
                    "label": example["label"],
                    "clean": {"label": clean["label"], "probability": clean["probability"]},
                    "adversarial": {"label": adversarial["label"], "probability": adversarial["probability"]},
                    "png": {kind: client.content(example[kind]) for kind in ("clean", "adversarial", "difference")},
                }
            )
    return shown
