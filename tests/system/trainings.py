"""Small trainings that go through faults, and what an unbroken run of them gives."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from app.records import Checkpoint
from app.services import models
from models import data
from models.checkpoints import save_model
from models.methods.spec import METHODS
from models.progress import Silent
from models.training import train
from tests.deployment import Deployment
from tests.servers import free_port, listens, wait_for

STEPS_PER_EPOCH = 20
PRETRAIN: dict[str, Any] = {
    "method": "clead",
    "backbone": {"name": "resnet18", "width": 4, "blocks": [1]},
    "dataset": {"name": "digits", "subset": 640},
    "views": [{"name": name, "eps": 0.2, "steps": 1, "step_size": 0.1} for name in ("pgd", "cw")],
    "crops": 1,
    "augmentation": {"crop_padding": 1, "flip": False},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "schedule": {"name": "cosine", "warmup_epochs": 0},
    "batch_size": 32,
    "epochs": 22,
    "precision": "float32",
    "seed": 3,
    "register_as": "tiny",
}
MEDIUM = {**PRETRAIN, "epochs": 20}
QUICK = {**PRETRAIN, "epochs": 2}
ENDLESS = {**PRETRAIN, "epochs": 2000}


def unbroken(body: Mapping[str, Any], *, threads: int) -> str:
    """SHA-256 of the weights of a run of ``body`` in this process, which nothing happens to."""
    spec = {name: value for name, value in body.items() if name not in ("register_as", "labels")}
    return _train(json.dumps(spec), threads)


@functools.cache
def _train(spec: str, threads: int) -> str:
    params = METHODS[json.loads(spec)["method"]].params.model_validate_json(spec)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        try:
            outcome = train(
                params,
                data.load(params.dataset.name, root=Path(folder)),
                init=None,
                base=None,
                resume=None,
                workdir=Path(folder),
                reporter=Silent(),
                device="cpu",
            )
        finally:
            torch.set_num_threads(before)
        path = Path(folder) / "unbroken.safetensors"
        save_model(path, outcome.model)
        return hashlib.sha256(path.read_bytes()).hexdigest()


def weights(deployment: Deployment, job_id: str) -> str:
    """SHA-256 of what the job registered, after the file in the storage was checked against it."""
    job = deployment.job(job_id)
    assert job.result is not None, (job.status, job.error, deployment.tail())
    with deployment.database.session() as session:
        version = models.resolve(session, job.result["model"])
    assert version.job_id == job_id
    deployment.storage.fetch(version.sha256, deployment.settings.home / "fetched")
    return version.sha256


def child_of(worker: subprocess.Popen[bytes]) -> int:
    """Process id of the worker's one child."""
    (pid,) = children_of(worker.pid)
    return pid


def children_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


def lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def freeze(deployment: Deployment, *pids: int) -> None:
    """Stop the processes while none of them holds SQLite's write lock, which nobody else could then ever have."""

    def stopped_without_lock() -> bool:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            with deployment.database.writing():
                return True
        except OperationalError:  # locked
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            return False

    wait_for(stopped_without_lock, seconds=150, what="a moment without a lock")


def checkpoints(deployment: Deployment, job_id: str) -> list[Checkpoint]:
    """The job's, oldest first."""
    with deployment.database.session() as session:
        return list(session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.id)))


def wait_for_checkpoint(deployment: Deployment, job_id: str, *, beyond: int = 0) -> None:
    """Until a checkpoint of a step after ``beyond`` is recorded."""

    def reached() -> bool:
        return any(found.step > beyond for found in checkpoints(deployment, job_id))

    wait_for(reached, seconds=150, what="a checkpoint")


def checkpoint_file(deployment: Deployment, job_id: str, sha256: str) -> Path:
    return deployment.settings.home / "storage" / "checkpoints" / job_id / sha256[:2] / sha256


def api_command(port: int) -> list[str]:
    return [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory", "--port", str(port)]


def start_api(
    deployment: Deployment, *, port: int | None = None, variables: Mapping[str, str] | None = None, **settings: Any
) -> tuple[subprocess.Popen[bytes], str]:
    """The API in a process of its own, once it answers; with its address."""
    port = port or free_port()
    process = deployment.start(api_command(port), variables=variables, **settings)
    wait_for(lambda: listens(port), seconds=180, what="the API")
    return process, f"http://127.0.0.1:{port}"
