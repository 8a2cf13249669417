"""The service under :mod:`bench.scale`: PostgreSQL as an operator runs it, Redis, the API, workers, and real jobs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
from sqlalchemy import create_engine, text

from app.records.session import Database
from app.security import secret_key
from app.services import tokens
from app.settings import Settings
from bench.scale_data import ACCOUNTS, Sample
from bench.scale_load import Api
from bench.shards import digits
from migrations import upgrade
from tests.servers import free_port, listens, postgres_in, redis_on, wait_for

POSTGRES = {"shared_buffers": "2GB", "effective_cache_size": "8GB", "random_page_cost": "1.1", "max_wal_size": "4GB"}
"""What docs/operations.md tells an operator to set. All else, durability above all, is PostgreSQL's default."""
UNLIMITED = {"token_requests_per_minute": 0, "token_unfinished_jobs": 0, "token_stored_bytes": 0}
LOADING = {"maintenance_work_mem": "1GB"}
TINY: dict[str, Any] = {
    "backbone": {"name": "resnet18", "width": 4, "blocks": [1]},
    "dataset": {"name": "bench", "subset": 400},
    "batch_size": 64,
    "epochs": 1,
}
BALL = {"eps": "8/255"}
EVALUATION: dict[str, Any] = {
    "dataset": {"name": "bench", "subset": 120},
    "attacks": [{"name": "fgsm", **BALL}, {"name": "pgd", **BALL, "steps": 5}, {"name": "cw-linf", **BALL, "steps": 5}],
    "curve": {"attack": "pgd", "eps": ["0/255", "2/255", "4/255", "8/255", "16/255"]},
    "examples": 16,
}


@dataclass
class Servers:
    """Running servers, and the settings of a service on them."""

    settings: Settings
    postgres: int
    """Process id of PostgreSQL."""

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.settings.database_url.replace("+psycopg", ""), autocommit=True)

    def environment(self) -> dict[str, str]:
        given = self.settings.model_dump(mode="json", exclude_none=True)
        values = {f"CLEAD_{name.upper()}": str(value) for name, value in given.items()}
        return os.environ | values | {"OMP_NUM_THREADS": "1", "CLEAD_SECRET_KEY": ""}

    @contextmanager
    def process(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process of the service; it is asked to stop at the end, and logs into the home folder."""
        with (self.settings.home / "log").open("a") as log:
            started = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log, env=self.environment())
        try:
            yield started
        finally:
            started.terminate()
            started.wait()

    @contextmanager
    def api(self, *, processes: int = 1) -> Iterator[Api]:
        """So many API processes behind one port, and a new token for each account and for the operator."""
        port = free_port()
        command = ("-m", "uvicorn", "app.main:create_app", "--factory", "--port", str(port), "--no-access-log")
        command += () if processes == 1 else ("--workers", str(processes))
        with self.process(*command) as process:
            wait_for(lambda: listens(port) or process.poll() is not None, seconds=300, what="the API")
            assert process.poll() is None, f"the API did not start; see {self.settings.home / 'log'}"
            yield Api(port, self._new_tokens(), process=process.pid, postgres=self.postgres)

    def _new_tokens(self) -> dict[str | None, str]:
        database, key = Database(self.settings.database_url), secret_key(self.settings)
        with database.writing() as session:
            operator = tokens.create(session, name="operator", scope="admin", key=key)[1]
            others = {name: tokens.create(session, name=name, scope="submit", key=key)[1] for name in ACCOUNTS}
        database.close()
        return {None: operator, **others}

    @contextmanager
    def workers(self, count: int) -> Iterator[None]:
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(self.process("-m", "worker.main"))
            yield


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """PostgreSQL and Redis in ``folder``, and a migrated database ``clead``."""
    options = [f"-c{name}={value}" for name, value in (POSTGRES | LOADING).items()]
    folder = folder.resolve()  # PostgreSQL's programs run elsewhere
    (folder / "postgres").mkdir(exist_ok=True)
    (folder / "redis").mkdir(exist_ok=True)
    with postgres_in(folder / "postgres", options=options) as url, redis_on(free_port(), folder / "redis") as broker:
        engine = create_engine(f"{url}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            if connection.scalar(text("SELECT 1 FROM pg_database WHERE datname = 'clead'")) is None:
                connection.execute(text("CREATE DATABASE clead"))
        engine.dispose()
        home = folder / "home"
        home.mkdir(exist_ok=True)
        settings = Settings(
            home=home, database_url=f"{url}/clead", broker_url=broker, threads=1, device="cpu", **UNLIMITED
        )
        upgrade(settings)
        yield Servers(settings, postgres=int((folder / "postgres/data/postmaster.pid").read_text().splitlines()[0]))


def real_samples(servers: Servers) -> dict[str, list[Sample]]:
    """Jobs of every kind, run for real, as the rows that they left."""
    with servers.workers(1), servers.api() as started, started.client() as api:
        archive = digits(servers.settings.home / "digits.npz")
        api.post("/datasets", data={"name": "bench"}, files={"file": archive.read_bytes()}).raise_for_status()
        encoder = _run(api, "/jobs/pretrain", {**TINY, "method": "clead", "register_as": "encoder"})
        waiting = [
            ("/jobs/probe", {"model": encoder, "dataset": TINY["dataset"], "epochs": 1, "register_as": "probe"}),
            ("/jobs/train", {**TINY, "method": "pgd-at", "register_as": "victim"}),
            ("/jobs/train", {**TINY, "method": "standard", "register_as": "victim"}),
            ("/evaluate", {**EVALUATION, "model": "victim"}),
            ("/evaluate", {**EVALUATION, "model": "victim", "shard_size": 60}),
            ("/evaluate/corruptions", {"model": "victim", "dataset": EVALUATION["dataset"], "severities": [1, 3, 5]}),
            ("/jobs/protocol", {"preset": "quick", "dataset": {"name": "digits"}, "methods": ["standard"]}),
        ]
        for path, body in waiting:
            print(path, _run(api, path, body) or "", flush=True)
    with servers.connect() as connection:
        rows = connection.execute(
            "SELECT CASE WHEN kind = 'evaluate' AND queue IS NULL THEN 'sharded' ELSE kind END, kind, spec, result,"
            " progress, examples FROM jobs WHERE status = 'succeeded' ORDER BY id"
        ).fetchall()
        connection.execute("TRUNCATE metric_points")
        connection.execute("DELETE FROM jobs")
    found: dict[str, list[Sample]] = {}
    for name, *sample in rows:
        found.setdefault(name, []).append(Sample(*sample))
    return found


def _run(api: httpx.Client, path: str, body: Mapping[str, Any]) -> str | None:
    """Post a job and wait for it; the model that it made."""
    job = api.post(path, json=dict(body)).raise_for_status().json()
    while job["status"] in ("queued", "running"):
        time.sleep(0.3)
        job = api.get(f"/jobs/{job['id']}").raise_for_status().json()
    if job["status"] != "succeeded":
        sys.exit(f"{path}: {job['error']}")
    return job["result"].get("model")
