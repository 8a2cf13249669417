"""Metrics of a real API and real workers after real jobs, a killed child and a lost lease."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import httpx

from app.services.submission import add_job
from tests.app.api.test_telemetry import Samples, samples
from tests.deployment import Deployment
from tests.servers import free_port, wait_for
from tests.system.test_serve import BODY
from tests.system.trainings import child_of, freeze, start_api, wait_for_checkpoint

LONG = {**BODY, "epochs": 2000}


class Metered:
    """A worker process with metrics on a port of its own."""

    def __init__(self, deployment: Deployment) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] = deployment.start_worker(metrics_port=self.port)

    def read(self) -> Samples:
        try:
            return samples(httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=30).text)
        except httpx.ConnectError:
            return {}

    def wait_for(self, name: str, *labels: str, above: float = 0.0) -> None:
        wait_for(lambda: self.read().get((name, *labels), -1.0) > above, seconds=60, what=f"{name} {labels}")


def test_a_worker_tells_of_its_jobs_and_of_a_killed_child(laptop: Deployment) -> None:
    _, url = start_api(laptop)
    worker = Metered(laptop)
    worker.wait_for("clead_worker_busy", above=-0.5)
    done = httpx.post(f"{url}/jobs/train", json={**BODY, "epochs": 1}, timeout=60).json()["id"]
    assert laptop.wait(done).status == "succeeded"
    worker.wait_for("clead_worker_attempts_total", "train", "done")
    assert "libtorch" not in Path(f"/proc/{worker.process.pid}/maps").read_text()  # the job's own process alone has it

    job_id = laptop.submit("train", LONG)
    wait_for_checkpoint(laptop, job_id)
    worker.wait_for("clead_worker_images_per_second")
    busy = worker.read()
    assert busy[("clead_worker_busy",)] == 1 and 0 < busy[("clead_worker_job_progress_ratio",)] < 1
    assert busy[("clead_worker_checkpoint_seconds_count",)] >= 1
    assert busy[("clead_worker_checkpoint_bytes_total",)] > 1000
    os.kill(child_of(worker.process), signal.SIGKILL)
    worker.wait_for("clead_worker_attempts_total", "train", "died")
    wait_for(lambda: laptop.job(job_id).attempt == 2, seconds=60, what="the second attempt")
    httpx.post(f"{url}/jobs/{job_id}/cancel", timeout=60)
    assert laptop.wait(job_id).status == "cancelled"
    worker.wait_for("clead_worker_attempts_total", "train", "cancelled")
    found = worker.read()
    assert found[("clead_worker_child_deaths_total", "SIGKILL")] == 1
    assert found[("clead_worker_attempt_seconds_count", "train")] == 3
    assert found[("clead_worker_images_per_second",)] == found[("clead_worker_job_progress_ratio",)] == 0
    assert found[("clead_worker_leases_lost_total",)] == found[("clead_worker_jobs_taken_over_total",)] == 0

    state = samples(httpx.get(f"{url}/metrics", timeout=60).text)
    assert state[("clead_workers", "train")] == state[("clead_workers", "evaluate")] == 1
    assert state[("clead_http_requests_total", "POST", "/jobs/train", "202")] == 1
    assert state[("clead_jobs_finished", "succeeded")] == 1
    worker.process.terminate()
    assert worker.process.wait(60) == 0


def test_a_lost_lease_is_told_by_the_loser_and_by_who_takes_over(laptop: Deployment) -> None:
    first = Metered(laptop)
    job_id = laptop.submit("train", LONG)
    wait_for_checkpoint(laptop, job_id)
    freeze(laptop, first.process.pid)  # a machine that stalls: its lease runs out
    second = Metered(laptop)
    wait_for(lambda: laptop.job(job_id).attempt == 2, seconds=60, what="the second attempt")
    os.kill(first.process.pid, signal.SIGCONT)
    first.wait_for("clead_worker_leases_lost_total")
    first.wait_for("clead_worker_attempts_total", "train", "lost")
    second.wait_for("clead_worker_jobs_taken_over_total")


def test_a_job_beyond_help_is_told(laptop: Deployment) -> None:
    with laptop.database.writing() as session:
        job = add_job(session, kind="train", queue="train", spec={})
        job.status, job.owner, job.lease_until, job.failures = "running", "gone", 0.0, 99
    worker = Metered(laptop)
    worker.wait_for("clead_worker_jobs_given_up_total")
    assert laptop.job(job.id).status == "failed"


def test_a_worker_whose_port_is_taken_says_so(laptop: Deployment) -> None:
    first = Metered(laptop)
    first.wait_for("clead_worker_busy", above=-0.5)
    second = laptop.start_worker(metrics_port=first.port)
    assert second.wait(60) == 1
    assert "each worker needs a port of its own" in laptop.log.read_text()
