"""Logs of a real API and a real worker: ids that join what belongs together, and no secret, whatever goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.records.session import Database
from app.security import new_token
from app.storage import Storage
from tests import servers
from tests.conftest import make_settings
from tests.deployment import Deployment
from tests.servers import free_port, redis_on, wait_for
from tests.system.test_serve import BODY, serving
from tests.system.trainings import child_of, start_api

SECRET = "battery-staple-7Hq"


def records(deployment: Deployment) -> list[dict[str, Any]]:
    """Every line of stderr is a record. (Celery's farewell goes to stdout, which lies in the same file.)"""
    lines = deployment.log.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line and not line.startswith("worker: ")]


def test_ids_join_request_job_attempt_and_the_jobs_own_process(laptop: Deployment) -> None:
    _, url = start_api(laptop)
    laptop.start_worker()
    exploding = {**BODY, "optimizer": {"name": "sgd", "lr": 100.0, "weight_decay": 10.0}}
    with httpx.Client(base_url=url, timeout=60) as client:
        answer = client.post("/jobs/train", json=exploding, headers={"X-Request-ID": "mine/1:a"})
        job_id = answer.json()["id"]
        assert answer.headers["X-Request-ID"] == "mine/1:a"
        assert client.get("/jobs?label=note:quiet").status_code == 200
        made = [client.get("/healthz", headers={"X-Request-ID": bad}).headers["X-Request-ID"] for bad in UNFIT]
        assert len(set(made)) == len(UNFIT) and all(len(each) == 32 for each in made)
    assert laptop.wait(job_id).status == "failed"
    wait_for(lambda: '"the job failed"' in laptop.log.read_text(), what="the traceback")
    seen = records(laptop)
    assert "quiet" not in str(seen)

    submitted = next(each for each in seen if "submitted" in each["message"])
    assert (submitted["request_id"], submitted["job_id"]) == ("mine/1:a", job_id)
    (access,) = [each for each in seen if each["logger"] == "app.access" and each["method"] == "POST"]
    assert {name: access[name] for name in ("path", "route", "status", "client", "token_id", "request_id")} == {
        "path": "/jobs/train",
        "route": "/jobs/train",
        "status": 202,
        "client": "127.0.0.1",
        "token_id": None,
        "request_id": "mine/1:a",
    }
    assert access["milliseconds"] > 0 and not any(each["logger"] == "uvicorn.access" for each in seen)

    of_attempt = [each for each in seen if each.get("attempt") == 1]
    assert {each["job_id"] for each in of_attempt} == {job_id} and len({each["worker"] for each in of_attempt}) == 1
    (failed,) = [each for each in of_attempt if each["logger"] == "worker.child"]
    assert failed["level"] == "ERROR" and failed["exception"].startswith("Traceback")
    assert "DivergedError" in failed["exception"].splitlines()[-1]
    assert any("is failed after" in each["message"] for each in of_attempt)


UNFIT = ("", "a b", "x" * 129, "é".encode("latin-1"), "a\tb", '"quoted"', "a;b")


def test_what_a_dying_child_says_carries_the_job(laptop: Deployment) -> None:
    """Not through the log: an interpreter that cannot start, here for want of a module."""
    job_id = laptop.submit("train", BODY)
    broken = laptop.settings.home / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import sys\nif 'worker.child' in sys.orig_argv:\n    print('a library speaks', file=sys.stderr)\n"
    )
    with laptop.log.open("ab") as log:
        environment = laptop.environment() | {"PYTHONPATH": f"{broken}:{os.environ.get('PYTHONPATH', '')}"}
        command = [sys.executable, "-m", "worker.main"]
        worker = subprocess.Popen(command, stderr=log, stdout=log, env=environment, process_group=0)
    laptop.processes.append(worker)
    wait_for(lambda: "a library speaks" in laptop.log.read_text(), seconds=60, what="the child's words")
    laptop.kill(worker)
    spoken = next(each for each in records(laptop) if "a library speaks" in each["message"] and "job_id" in each)
    assert spoken["job_id"] == job_id and spoken["attempt"] >= 1


def test_a_killed_child_is_told_with_its_job(laptop: Deployment) -> None:
    job_id = laptop.submit("train", {**BODY, "epochs": 200})
    worker = laptop.start_worker(log_format="text")
    laptop.wait_for_step(job_id, 5)
    os.kill(child_of(worker), signal.SIGKILL)
    wait_for(lambda: "SIGKILL" in laptop.log.read_text(), what="the cause")
    line = next(line for line in laptop.log.read_text().splitlines() if "SIGKILL" in line)
    assert line.endswith(f"[job_id={job_id} attempt=1]")


def test_a_laptops_console_is_text_and_quiet(tmp_path: Path) -> None:
    with serving(tmp_path / "home") as (process, client):
        wait_for(lambda: client.get("/readyz").status_code == 200, what="a worker")
        job_id = client.post("/jobs/train", json={**BODY, "epochs": 1}).json()["id"]
        wait_for(lambda: client.get(f"/jobs/{job_id}").json()["status"] == "succeeded", seconds=60, what="success")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    lines = (tmp_path / "serve.log").read_text().splitlines()
    assert any(f"train job {job_id} submitted" in line for line in lines), "of the API"
    assert any("is done after" in line and "attempt=1" in line for line in lines), "of the worker"
    for noise in ("app.access", "alembic", "No hostname", "{"):
        assert not any(noise in line for line in lines), noise


def test_no_secret_is_logged_when_passwords_are_wrong(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Database and broker ask for a password and are given another, by both processes, at the chattiest level."""
    port, token = free_port(), new_token()
    with (
        servers.postgres(password="right-database-pw") as server,
        redis_on(port, tmp_path, "--requirepass", f"{SECRET}-right"),
    ):
        settings = make_settings(
            "sqlite+filesystem",
            request,
            tmp_path / "home",
            database_url=server.replace("right-database-pw", f"{SECRET}-db") + "/postgres",
            broker_url=f"redis://:{SECRET}-broker@127.0.0.1:{port}/0",
        )
        deployment = Deployment(settings, Database("sqlite://"), Storage(settings.storage_url), tmp_path / "log")
        more = {"log_level": "debug", "secret_key": f"{SECRET}-key"}
        try:
            api, url = start_api(deployment, **more)
            broker = settings.broker_url
            workers = [deployment.start_worker(**more, broker_url=broker.replace("-broker", "-right"))]
            workers += [deployment.start_worker(**more)]
            ask_with_tokens(url, token, expect={503})
            for says in ("worker.reaper", "Cannot connect to redis"):
                wait_for(lambda says=says: says in deployment.log.read_text(), seconds=60, what=says)
            for process in (api, *workers):
                process.terminate()
                process.wait(60)
        finally:
            deployment.close()
    text = deployment.log.read_text()
    assert "password authentication failed" in text
    assert_no_secret(text, token)


def test_no_secret_is_logged_when_all_is_well_or_the_settings_are_not(laptop: Deployment) -> None:
    more = {"log_level": "debug", "secret_key": f"{SECRET}-key"}
    _, url = start_api(laptop, **more)
    created = run(laptop, "token", "create", "--name", "me", "--scope", "admin", **more)
    token = created.stdout.strip()
    assert token.startswith("clead_")
    ask_with_tokens(url, token, expect={200, 303, 401, 404, 503})
    text = laptop.log.read_text()
    assert '"path": "/jobs/clead_***"' in text and '"token_id": "0' in text
    assert_no_secret(text, token)

    wrong = run(laptop, "settings", broker_url=f"redis://:{SECRET}@host/0", lease_seconds=0.1)
    assert wrong.returncode == 2 and "twice CLEAD_HEARTBEAT_SECONDS" in wrong.stderr
    assert_no_secret(wrong.stderr + wrong.stdout, token)


def ask_with_tokens(url: str, token: str, *, expect: set[int]) -> None:
    """The token where it belongs and where it does not, and a login."""
    with httpx.Client(base_url=url, timeout=60) as client:
        answers = [
            client.get("/jobs", headers={"Authorization": f"Bearer {token}"}),
            client.get("/jobs", headers={"Cookie": f"clead_token={token}"}),
            client.get(f"/jobs?token={token}"),
            client.get(f"/jobs/{token}", headers={"Authorization": f"Bearer {token}", "X-Request-ID": token}),
            client.get(f"/jobs/{token.replace('_', '%5F')}", headers={"Authorization": f"Bearer {token}"}),
            client.post("/login", data={"token": token}),
            client.get(f"/readyz?x={token}", headers={"Authorization": f"Basic {token}"}),
        ]
    assert {answer.status_code for answer in answers} == expect, [answer.status_code for answer in answers]
    assert all(answer.headers["X-Request-ID"] for answer in answers)


def assert_no_secret(text: str, token: str) -> None:
    for secret in (SECRET, token[10:]):
        where = text.find(secret)
        assert where < 0, text[max(0, where - 300) : where + 100]


def run(deployment: Deployment, *arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", *arguments]
    environment = deployment.environment(**settings)
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
