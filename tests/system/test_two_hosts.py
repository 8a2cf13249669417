"""Two worker hosts that share no disk: each in a network namespace and with a home of its own.

They reach PostgreSQL, Redis and S3, on a third host, by the three URLs alone; and each can be cut off.
"""

from __future__ import annotations

import os
import signal
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
from tests.system.trainings import PRETRAIN as TRAINING
from tests.system.trainings import QUICK, child_of, lives, wait_for_checkpoint

pytestmark = pytest.mark.timeout(600)

BODY = {**TRAINING, "epochs": 30}  # a fast machine must be cut off before it is done
FAST = {"lease_seconds": 6, "heartbeat_seconds": 0.5, "reaper_seconds": 0.5, "checkpoint_seconds": 0.5}


@dataclass
class Site:
    """The deployment as this process sees it (PostgreSQL by its socket), and as the hosts do."""

    deployment: Deployment
    a: Host
    b: Host
    urls: dict[str, str]
    folder: Path

    def start_workers(self) -> dict[str, subprocess.Popen[bytes]]:
        """One on each host, by the host's name, once both are ready."""
        fast = {f"CLEAD_{name.upper()}": str(value) for name, value in FAST.items()}
        workers = {}
        for host in (self.a, self.b):
            self.log(host).unlink(missing_ok=True)
            home = {"CLEAD_HOME": str(self.folder / host.name), "CLEAD_DEVICE": "cpu"}
            command = [sys.executable, "-m", "worker.main"]
            workers[host.name] = host.start(command, environment=self.urls | home | fast, log=self.log(host), cwd=ROOT)
        for host in (self.a, self.b):
            wait_for(lambda host=host: self.says(host, " ready."), seconds=120, what="a worker")  # type: ignore[misc]
        return workers

    def log(self, host: Host) -> Path:
        return self.folder / f"{host.name}.log"

    def logs(self) -> str:
        return "\n".join(self.log(host).read_text(errors="replace")[-3000:] for host in (self.a, self.b))

    def says(self, host: Host, text: str) -> bool:
        return text in self.log(host).read_text(errors="replace")

    def wait_for_loss(self, host: Host, job: Job) -> None:
        """Until the host's worker knows that this attempt at the job is no longer its own."""
        text = f"job {job.id}: attempt {job.attempt} lost its lease"
        wait_for(lambda: self.says(host, text), seconds=90, what="the loss of the lease")

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


@pytest.fixture
def workers(site: Site) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    started = site.start_workers()
    yield started
    for worker in started.values():
        site.deployment.kill(worker)


def new_database_by(socket: str) -> str:
    database = Database(socket.format("postgres"))
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE clead")
    database.close()
    return "clead"


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_host_that_is_cut_off_loses_its_job_to_the_other_and_the_weights_are_the_same(
    site: Site, workers: dict[str, subprocess.Popen[bytes]]
) -> None:
    deployment = site.deployment
    undisturbed = deployment.submit("pretrain", BODY, announce=False)
    assert deployment.wait(undisturbed, seconds=240).status == "succeeded", site.logs()

    job_id = deployment.submit("pretrain", BODY, announce=False)
    deployment.wait_for_step(job_id, 40)
    wait_for_checkpoint(deployment, job_id)
    began = deployment.job(job_id)
    first, second = sorted((site.a, site.b), key=lambda host: workers[host.name].pid != owner(began))
    child = child_of(workers[first.name])
    first.cut()
    # It goes on computing, and finds out when the cable is back: nothing that it then writes counts.
    ticks = cpu_ticks(child)
    wait_for(lambda: cpu_ticks(child) > ticks, seconds=30, what="work of the host that is cut off")
    wait_for(
        lambda: owner(deployment.job(job_id)) == workers[second.name].pid, seconds=120, what="the other host's attempt"
    )
    taken = deployment.job(job_id)
    text = f"job {job_id}: attempt {taken.attempt} runs in process"
    wait_for(lambda: site.says(second, text), seconds=120, what="the other host's child")
    heir = child_of(workers[second.name])
    os.kill(heir, signal.SIGSTOP)  # until the first has learnt of it; the lease is the parent's
    first.mend()
    site.wait_for_loss(first, began)
    wait_for(lambda: not lives(child), seconds=60, what="the end of the first child")

    # The second is cut off for good, and gives up without being told; the first takes the job back.
    assert (deployment.job(job_id).status, deployment.job(job_id).attempt) == ("running", taken.attempt)
    second.cut()
    os.kill(heir, signal.SIGCONT)
    assert deployment.wait(job_id, seconds=240).status == "succeeded", site.logs()
    assert taken.attempt < deployment.job(job_id).attempt
    assert site.sha256(job_id) == site.sha256(undisturbed)
    site.wait_for_loss(second, taken)
    wait_for(lambda: not lives(heir), seconds=60, what="the end of the second child")
    second.mend()
    assert [worker.poll() for worker in workers.values()] == [None, None]


def owner(job: Job) -> int:
    """Process id in the worker's id."""
    return int(str(job.owner).split("-")[-2])


def test_both_hosts_work_on_one_evaluation(site: Site, workers: dict[str, subprocess.Popen[bytes]]) -> None:
    deployment = site.deployment
    pretrained = deployment.submit("pretrain", QUICK, announce=False)
    assert deployment.wait(pretrained, seconds=240).status == "succeeded", site.logs()
    probe: dict[str, Any] = {"model": "tiny", "dataset": {"name": "digits"}, "epochs": 1, "register_as": "probed"}
    trained = deployment.submit("probe", probe, announce=False)
    assert deployment.wait(trained, seconds=240).status == "succeeded", site.logs()
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
    assert job.status == "succeeded" and job.result is not None, (job.error, site.logs())
    assert (job.status, owners) == ("succeeded", {worker.pid for worker in workers.values()})
    assert job.result["dataset"]["size"] == 360 and len(job.examples or []) == 4
