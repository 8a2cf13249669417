"""Inference of a real server process under harmful load: what waits costs little, and nobody else waits for it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.api.requests import IMAGES_MAX_BYTES
from app.settings import Settings
from tests.app.api.conftest import Register, assert_problem, make_model, png, random_pixels
from tests.app.process import ApiProcess, api_process, running_api
from tests.conftest import S3_ACCOUNT
from tests.memory import MIB, at_most
from tests.servers import wait_for

THREADS = 40
"""Of the pool that plain routes run in."""
PICTURE = png(random_pixels(1)[0])


def form(*pictures: bytes) -> bytes:
    part = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n%b\r\n'
    return b"".join(part % picture for picture in pictures) + b"--b--\r\n"


@contextmanager
def posting(client: httpx.Client, *, size: int, body: bytes = b"") -> Iterator[socket.socket]:
    """A connection that announces a form of ``size`` bytes for the model tiny, sends ``body`` and then nothing."""
    lines = [
        "POST /classify?model=tiny HTTP/1.1",
        "Host: localhost",
        "Content-Type: multipart/form-data; boundary=b",
        f"Content-Length: {size}",
    ]
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=120) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        yield connection


def classify(client: httpx.Client) -> httpx.Response:
    return client.post("/classify?model=tiny", files={"images": ("a.png", PICTURE)})


def reads(client: httpx.Client, name: str) -> Callable[[], float]:
    def value() -> float:
        text = client.get("/metrics").text
        (found,) = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        ]
        return found

    return value


def test_a_client_that_went_away_is_not_computed_and_frees_its_places(
    settings: Settings, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register("tiny", make_model())
    monkeypatch.setenv("CLEAD_BATCH_WAIT_MS", "10000")
    monkeypatch.setenv("CLEAD_QUEUE_MAX_IMAGES", "2")
    with running_api(settings) as client:
        taken = reads(client, "clead_inference_images")
        body = form(PICTURE, PICTURE)
        with posting(client, size=len(body), body=body):
            wait_for(lambda: taken() == 2, what="a request that waits for its batch to fill")
            with posting(client, size=IMAGES_MAX_BYTES) as refused:  # before a byte of its body
                assert refused.makefile().readline().startswith("HTTP/1.1 429 ")
        wait_for(lambda: taken() == 0, what="the end of the request that nobody waits for")
        assert reads(client, "clead_inference_batch_images_count")() == 0
        assert 'route="/classify",status="499"' in client.get("/metrics").text


def test_bodies_that_fill_the_memory_for_them_leave_room_for_small_ones(settings: Settings, register: Register) -> None:
    register("tiny", make_model())
    large = form(*[bytes(20 * MIB)] * 6, bytes(7 * MIB))
    with running_api(settings) as client, ExitStack() as stalled:
        for _ in range(2):
            stalled.enter_context(posting(client, size=IMAGES_MAX_BYTES))  # and nothing comes: that takes no room

        def beyond() -> httpx.Response:
            headers = {"Content-Type": "multipart/form-data; boundary=b"}
            return client.post("/embed?model=tiny", content=iter([form(bytes(19 * MIB))]), headers=headers)

        def full() -> bool:
            stalled.enter_context(posting(client, size=IMAGES_MAX_BYTES, body=large))
            return beyond().status_code == 429

        wait_for(full, what="a refusal")
        refused = beyond()
        assert_problem(refused, 429, says="the images of other requests")
        assert int(refused.headers["retry-after"]) >= 1
        assert classify(client).status_code == 200
        stalled.close()
        wait_for(lambda: beyond().status_code == 422, what="room")


def test_a_storage_that_stalls_holds_only_those_up_who_need_it(
    settings: Settings, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More requests wait for the weights than there are threads."""
    register("tiny", make_model())
    with socket.socket() as store, ExitStack() as waiting:
        store.bind(("127.0.0.1", 0))
        store.listen()
        for name, value in {
            **S3_ACCOUNT,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store.getsockname()[1]}",
            "CLEAD_STORAGE_URL": "s3://bucket/clead",
        }.items():
            monkeypatch.setenv(name, value)
        with running_api(settings) as client:
            connections = [waiting.enter_context(posting(client, size=100)) for _ in range(THREADS + 5)]
            asked, _ = store.accept()
            for _ in range(100):  # so often that each of them had its turns
                assert client.get("/healthz").status_code == 200
            assert client.get("/version").status_code == 200
            store.close()
            asked.close()
            for connection in connections:
                assert connection.makefile().readline().startswith("HTTP/1.1 503 ")


@pytest.fixture
def server(settings: Settings) -> Iterator[ApiProcess]:
    with api_process(settings) as process:
        yield process


def test_small_files_for_a_large_model_take_little_memory(server: ApiProcess, register: Register) -> None:
    register("large", make_model(shape=(3, 1024, 1024)))
    dot = png(np.zeros((1, 1), np.uint8))

    def ask(count: int) -> httpx.Response:
        pictures = [("images", ("a.png", dot))] * count
        return server.client.post("/classify?model=large", files=pictures)

    assert ask(1).status_code == 200
    with at_most(1024 * MIB, pid=server.pid):
        assert ask(12).status_code == 200
    assert_problem(ask(49), 413, says="at most 48")
