"""`clead serve` as a person uses it: start, Ctrl-C in the middle of a training, start again; and the kill of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.servers import free_port, wait_for

FAST = {
    "CLEAD_LEASE_SECONDS": "2.5",
    "CLEAD_HEARTBEAT_SECONDS": "0.25",
    "CLEAD_REAPER_SECONDS": "0.5",
    "CLEAD_CHECKPOINT_SECONDS": "0.2",
    "CLEAD_DEVICE": "cpu",
}
BODY = {
    "method": "standard",
    "backbone": {"name": "resnet18", "width": 4, "blocks": [1]},
    "dataset": {"name": "digits"},
    "augmentation": {"crop_padding": 1, "flip": False},
    "batch_size": 32,
    "epochs": 15,
    "precision": "float32",
    "register_as": "digits-tiny",
}


def command(home: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "app.cli", "serve", "--home", str(home), *arguments]


@contextmanager
def serving(home: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """The process, and a client of the address that it printed."""
    with (home.parent / "serve.log").open("a") as log:
        process = subprocess.Popen(
            command(home, "--port", "0"), stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | FAST
        )
    try:
        assert process.stdout is not None
        address = next(found.group() for line in process.stdout if (found := re.search(r"http://[\d.]+:\d+", line)))
        with httpx.Client(base_url=address, timeout=30) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()


def step_of(client: httpx.Client, job_id: str) -> int:
    return int((client.get(f"/jobs/{job_id}").json()["progress"] or {}).get("done", 0))


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_second_start_finds_everything_again_and_goes_on(tmp_path: Path, ending: signal.Signals) -> None:
    home = tmp_path / "home"
    with serving(home) as (process, client):
        wait_for(lambda: client.get("/readyz").status_code == 200, what="a worker")
        job_id = client.post("/jobs/train", json=BODY).raise_for_status().json()["id"]
        wait_for(lambda: step_of(client, job_id) >= 60, seconds=60, what="step 60")
        process.send_signal(ending)
        assert process.wait(timeout=60) == (-ending if ending == signal.SIGKILL else 0)
    with serving(home) as (process, client):
        wait_for(lambda: client.get(f"/jobs/{job_id}").json()["status"] == "succeeded", seconds=120, what="success")
        job = client.get(f"/jobs/{job_id}").json()
        assert (job["attempt"], job["result"]["model"]) == (2, "digits-tiny@1")
        losses = client.get(f"/jobs/{job_id}/metrics").json()["series"]["loss"]
        assert losses[0][0] == 1 and losses[-1][0] == job["result"]["steps"], "one series over both attempts"
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


def test_a_worker_that_was_killed_is_started_again(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as (process, client):
        wait_for(lambda: client.get("/readyz").status_code == 200, what="a worker")
        (first,) = workers_of(process)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: workers_of(process) not in ([], [first]), seconds=60, what="another worker")
        job_id = client.post("/jobs/train", json={**BODY, "epochs": 1}).raise_for_status().json()["id"]
        wait_for(lambda: client.get(f"/jobs/{job_id}").json()["status"] == "succeeded", seconds=60, what="success")


def test_evaluate_and_classify_from_the_command_line(tmp_path: Path) -> None:
    """Exit status 3 where a requirement is not met, so that a pipeline can stop on it."""
    with serving(tmp_path / "home") as (_, client):
        job_id = client.post("/jobs/train", json={**BODY, "epochs": 3}).raise_for_status().json()["id"]
        wait_for(lambda: client.get(f"/jobs/{job_id}").json()["status"] == "succeeded", seconds=60, what="success")
        asked = ["evaluate", "digits-tiny", "--dataset", "digits", "--subset", "60", "--eps", "0.2", "--require"]
        passed = cli(client, *asked, "pgd>=0", "--attack", "pgd")
        assert passed.returncode == 0 and "robust accuracy" in passed.stdout, passed.stderr
        missed = cli(client, *asked, "pgd>=0.999", "--attack", "pgd")
        assert missed.returncode == 3 and "not met" in missed.stdout, missed.stderr
        refused = cli(client, *asked, "pgd>=0.999", "--attack", "pdg")
        assert refused.returncode == 1 and "/attacks/0/name" in refused.stderr and "known" in refused.stderr

        picture = tmp_path / "digit.png"
        Image.new("L", (8, 8), 128).save(picture)
        unset = cli(client, "classify", str(picture))
        assert unset.returncode == 1 and "production" in unset.stderr
        client.put("/models/digits-tiny/aliases/production", json={"version": 1}).raise_for_status()
        answer = cli(client, "classify", str(picture), __file__)
        assert answer.returncode == 0 and "digit.png" in answer.stdout, answer.stderr


def cli(client: httpx.Client, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", *arguments, "--url", str(client.base_url)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"COLUMNS": "200"})


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    pids = [
        int(pid) for path in Path(f"/proc/{process.pid}/task").glob("*/children") for pid in path.read_text().split()
    ]
    return [pid for pid in pids if b"worker.main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_taken_home_or_port_is_refused_in_words(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with serving(home) as (_, client):
        second = subprocess.run(command(home, "--port", "0"), capture_output=True, text=True, timeout=60)
        assert second.returncode == 1
        assert "another `clead serve` is running" in second.stderr.replace("\n", " ")
        taken = subprocess.run(
            command(tmp_path / "other", "--port", str(client.base_url.port)), capture_output=True, text=True, timeout=60
        )
        assert taken.returncode == 1 and "is taken" in taken.stderr.replace("\n", " ")
        assert "Traceback" not in second.stderr + taken.stderr


def test_a_device_that_is_not_there_is_refused_in_words(tmp_path: Path) -> None:
    variables = {"CLEAD_DEVICE": "cuda:77", "COLUMNS": "200"}
    ended = subprocess.run(
        command(tmp_path / "home", "--port", "0"),
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | variables,
    )
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "torch finds no device 'cuda:77' on this machine; set CLEAD_DEVICE to auto" in ended.stderr


def test_the_command_line_says_when_no_service_answers() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    asked = [sys.executable, "-m", "app.cli", "classify", __file__, "--url", url]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 1 and "clead serve" in answer.stderr and "Traceback" not in answer.stderr
