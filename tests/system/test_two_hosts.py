"""Two worker hosts that share no disk: each in a network namespace and with a home of its own.

They reach PostgreSQL, Redis and S3, on a third host, by the three URLs alone; and each can be cut off.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.records import Job
from app.records.session import Database
from app.services import jobs, models, parents
from app.settings import Settings
from app.storage import Storage
from migrations import upgrade
from tests.conftest import S3_ACCOUNT
from tests.deployment import ROOT, Deployment
from tests.namespaces import Host, network
from tests.servers import free_port, postgres_in, redis_on, s3_on, wait_for
from tests.system.test_faults import BODY as TRAINING
from tests.system.test_faults import child_of, lives, wait_for_checkpoint

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.timeout(600),
]

BODY = {**TRAINING, "epochs": 10}
FAST = {"lease_seconds": 2.5, "heartbeat_seconds": 0.25, "reaper_seconds": 0.5, "checkpoint_seconds": 1.0}


@dataclass
class Site:
    """The deployment as this process sees it (PostgreSQL by its socket), and as the hosts do."""

    deployment: Deployment
    a: Host
    b: Host
    urls: dict[str, str]
    folder: Path

    def start_worker(self, host: Host) -> subprocess.Popen[bytes]:
        home = {"CLEAD_HOME": str(self.folder / host.name), "CLEAD_DEVICE": "cpu"}
        fast = {f"CLEAD_{name.upper()}": str(value) for name, value in FAST.items()}
        return host.start(
            [sys.executable, "-m", "worker.main"],
            environment=self.urls | home | fast,
            log=self.log(host),
            cwd=ROOT,
        )

    def log(self, host: Host) -> Path:
        return self.folder / f"{host.name}.log"

    def says(self, host: Host, text: str) -> bool:
        return text in self.log(host).read_text(errors="replace")

    def sha256(self, job_id: str) -> str:
        job = self.deployment.job(job_id)
        assert job.result is not None, (job.status, job.error)
        with self.deployment.database.session() as session:
            return models.resolve(session, job.result["model"]).sha256


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("hosts")
    with network() as net, tempfile.TemporaryDirectory(prefix="clead-hosts-") as data:
        services, a, b = (net.host(name) for name in ("services", "a", "b"))
        Path(data).chmod(0o755)
        Path(data, "postgres").mkdir()
        with (
            postgres_in(Path(data, "postgres"), site=services.site) as server,
            redis_on(free_port(), Path(data), site=services.site) as broker,
            s3_on(free_port(), site=services.site) as endpoint,
        ):
            services.call(lambda: httpx.put(f"{endpoint}/clead").raise_for_status())
            port = server.rpartition(":")[2]
            socket = f"postgresql+psycopg://clead@/{{}}?host={data}/postgres&port={port}"
            name = new_database_by(socket)
            urls = {
                "CLEAD_DATABASE_URL": f"{server}/{name}",
                "CLEAD_BROKER_URL": broker,
                "CLEAD_STORAGE_URL": "s3://clead/artifacts",
                "AWS_ENDPOINT_URL": endpoint,
                **S3_ACCOUNT,
            }
            here = Settings(home=folder / "here", database_url=socket.format(name))
            upgrade(here)
            deployment = Deployment(here, Database(here.database_url), Storage(here.storage_url), folder / "log")
            yield Site(deployment, a, b, urls, folder)
            deployment.close()


def new_database_by(socket: str) -> str:
    database = Database(socket.format("postgres"))
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE clead")
    database.close()
    return "clead"


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_host_that_is_cut_off_loses_its_job_to_the_other_and_the_weights_are_the_same(site: Site) -> None:
    deployment = site.deployment
    a = site.start_worker(site.a)
    undisturbed = deployment.submit("pretrain", BODY, announce=False)
    assert deployment.wait(undisturbed, seconds=240).status == "succeeded", site.log(site.a).read_text()[-3000:]

    job_id = deployment.submit("pretrain", BODY, announce=False)
    deployment.wait_for_step(job_id, 40)
    wait_for_checkpoint(deployment, job_id)
    b = site.start_worker(site.b)
    first = child_of(a)
    site.a.cut()
    wait_for(lambda: deployment.job(job_id).attempt == 2, seconds=60, what="the other host's attempt")
    assert owner(deployment.job(job_id)) == b.pid
    # The first goes on computing, and finds out when the cable is back: nothing that it then writes counts.
    ticks = cpu_ticks(first)
    wait_for(lambda: cpu_ticks(first) > ticks, seconds=10, what="work of the host that is cut off")
    site.a.mend()
    wait_for(lambda: site.says(site.a, "attempt 1 lost its lease"), seconds=60, what="the loss of the lease")
    wait_for(lambda: not lives(first), seconds=30, what="the end of the first child")

    # The second is cut off for good, and ends its child without being told; the first takes the job back.
    job = deployment.job(job_id)
    assert job.status == "running", (job.status, job.error)
    second = child_of(b)
    site.b.cut()
    assert deployment.wait(job_id, seconds=240).status == "succeeded", site.log(site.a).read_text()[-3000:]
    job = deployment.job(job_id)
    assert job.attempt == 3
    assert site.sha256(job_id) == site.sha256(undisturbed)
    wait_for(lambda: site.says(site.b, "attempt 2 lost its lease"), seconds=60, what="the second loss of the lease")
    wait_for(lambda: not lives(second), seconds=60, what="the end of the second child")
    site.b.mend()
    job = deployment.job(job_id)
    assert (job.status, job.attempt) == ("succeeded", 3)
    for worker in (a, b):
        assert worker.poll() is None
        deployment.kill(worker)


def owner(job: Job) -> int:
    """Process id in the worker's id."""
    return int(str(job.owner).split("-")[-2])


def test_both_hosts_work_on_one_evaluation(site: Site) -> None:
    deployment = site.deployment
    workers = [site.start_worker(site.a), site.start_worker(site.b)]
    probe: dict[str, Any] = {"model": "tiny", "dataset": {"name": "digits"}, "epochs": 1, "register_as": "probed"}
    trained = deployment.submit("probe", probe, announce=False)
    assert deployment.wait(trained, seconds=240).status == "succeeded", site.log(site.a).read_text()[-3000:]
    attacks = [{"name": "cw-linf", "eps": 0.01, "steps": 200}]
    body = {"model": "probed", "dataset": {"name": "digits"}, "attacks": attacks, "shard_size": 60, "examples": 4}
    job_id = deployment.submit("evaluate", body, announce=False)
    owners: set[int] = set()

    def finished() -> bool:
        with deployment.database.session() as session:
            job = jobs.get(session, job_id)
            owners.update(owner(child) for child in parents.children(session, job) if child.status == "running")
        return job.status in ("succeeded", "failed")

    wait_for(finished, seconds=240, what="the end of the evaluation")
    job = deployment.job(job_id)
    assert job.status == "succeeded" and job.result is not None, (job.error, site.log(site.a).read_text()[-3000:])
    assert (job.status, owners) == ("succeeded", {worker.pid for worker in workers})
    assert job.result["dataset"]["size"] == 360 and len(job.examples or []) == 4
