"""Harm done to a real server process: it refuses in order, stays well, and stops in order."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np

from app.records.session import Database
from app.settings import Settings
from tests.app.api.conftest import Issue, Register, assert_problem, bearer, make_model, png, random_pixels
from tests.app.api.test_dataset_routes import WHOLE, arrays_npz, folder_zip
from tests.app.api.test_job_routes import change, measure, read_events
from tests.app.api.test_submit import PRETRAIN
from tests.app.process import api_process, running_api
from tests.app.serving.test_decode import bomb
from tests.servers import wait_for


def test_a_real_server_outlives_harmful_requests(settings: Settings, register: Register) -> None:
    register("tiny", make_model())
    good = png(random_pixels(1)[0])
    with running_api(settings) as client:
        for data in (good[: len(good) // 2], bomb(20_000, 20_000), b"just text"):
            refused = client.post("/classify?model=tiny", files={"images": ("a.png", data)})
            assert_problem(refused, 422, pointer="/images/0")
        for data in (folder_zip(**{"../../evil.png": WHOLE}), arrays_npz(x_train=[print]), folder_zip()[:-40]):
            refused = client.post("/datasets", data={"name": "mine"}, files={"file": ("a.zip", data)})
            assert_problem(refused, 422, pointer="/file")
        deep = client.post("/evaluate", content=b"[" * 1_000_000, headers={"content-type": "application/json"})
        assert_problem(deep, 400)
        answer = client.post("/classify?model=tiny", files={"images": ("a.png", good)})
        assert answer.json()["predictions"][0]["error"] is None
        assert client.get("/healthz").status_code == 200


def test_a_server_does_not_start_without_its_device(settings: Settings) -> None:
    command = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory", "--port", "0"]
    variables = {"CLEAD_HOME": str(settings.home), "CLEAD_DEVICE": "cuda:77"}
    ended = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 3, "uvicorn's status of an application that did not start"
    assert "not starting: torch finds no device 'cuda:77' on this machine; set CLEAD_DEVICE to auto" in ended.stderr


def test_an_upload_is_refused_before_its_body(settings: Settings, issue: Issue) -> None:
    """A gigabyte is announced and a few bytes come: nobody waits for the rest, which 401, 403 and 429 do not need."""
    _, reader = issue("classify")
    _, writer = issue("submit", requests_per_minute=1)
    with running_api(settings) as client:
        assert client.get("/jobs", headers=bearer(writer)).status_code == 200
        for path in ("/datasets", "/models/mine/versions"):
            for token, status in ((None, 401), ("unknown", 401), (reader, 403), (writer, 429)):
                assert _announced(client, path, token).startswith(f"HTTP/1.1 {status} "), (path, token)


def test_what_a_killed_server_had_in_hand_goes_when_the_next_one_starts(settings: Settings) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20_000, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(20_000) % 10
    upload = arrays_npz(x_train=pixels, y_train=labels, x_test=pixels[:10], y_test=labels[:10])
    with api_process(settings, ends=[-signal.SIGKILL]) as process, ThreadPoolExecutor(1) as pool:
        posting = pool.submit(
            process.client.post, "/datasets", data={"name": "mine"}, files={"file": ("a.npz", upload)}
        )
        wait_for(lambda: any(settings.work_dir.glob("upload-*")), what="the upload at work")
        os.kill(process.pid, signal.SIGKILL)
        assert isinstance(posting.exception(), httpx.TransportError)
    assert list(settings.work_dir.glob("upload-*"))
    with running_api(settings) as client:
        assert client.get("/healthz").status_code == 200
        assert not list(settings.work_dir.iterdir())
        again = client.post("/datasets", data={"name": "mine"}, files={"file": ("a.npz", upload)})
        assert again.status_code == 201 and not list(settings.work_dir.iterdir())


def _announced(client: httpx.Client, path: str, token: str | None) -> str:
    """The first line that the server says to the beginning of a form of a gigabyte."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: multipart/form-data; boundary=b",
        "Content-Length: 1000000000",
        *([f"Authorization: Bearer {token}"] if token else []),
    ]
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, "", "--b\r\n"]).encode())
        return connection.makefile().readline()


def test_a_stream_follows_a_job_while_it_runs(settings: Settings, database: Database) -> None:
    with running_api(settings) as client:
        job_id = client.post("/jobs/pretrain", json=PRETRAIN).json()["id"]
        abandoned = client.stream("GET", f"/jobs/{job_id}/events")
        abandoned.__enter__()  # left open: the server must stop in order all the same
        text = ""
        with client.stream("GET", f"/jobs/{job_id}/events") as stream:
            for line in stream.iter_lines():
                text += f"{line}\n"
                if line == "event: status" and text.count(line) == 1:
                    measure(database, job_id, 1, 2)
                    change(database, job_id, status="running", progress={"done": 1, "total": 2, "unit": "step"})
                elif line == "event: progress":
                    change(database, job_id, status="succeeded")
        seen = [(kind, data.get("status") or data.get("step")) for kind, _, data in read_events(text)]
        assert seen == [
            ("status", "queued"),
            ("metric", 1),
            ("metric", 2),
            ("progress", None),
            ("status", "running"),
            ("status", "succeeded"),
        ]
