"""What `/metrics` tells: of requests for inference, of the rows, of devices, and of a database that is away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from app.main import create_app
from app.records import epoch_now, utc_now
from app.records.session import Database
from app.security import secret_key
from app.services import tokens, workers
from app.services.submission import add_job
from app.settings import Settings
from migrations import upgrade
from tests import servers
from tests.app.api.conftest import HERE, Register, make_model, png, random_pixels, resources_of
from tests.app.serving.test_decode import bomb

Samples = dict[tuple[str, ...], float]


def samples(text: str) -> Samples:
    """(name, label value, …) → value."""
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation for family in families)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


def scrape(client: TestClient, **headers: str) -> Samples:
    answer = client.get("/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    return samples(answer.text)


def test_inference_is_counted_in_images_batches_and_reasons(client: TestClient, register: Register) -> None:
    register("tiny", make_model())
    good = [("images", (f"{index}.png", png(pixels))) for index, pixels in enumerate(random_pixels(3))]
    cut = png(random_pixels(1)[0])[:-24]
    bad = [("images", ("x.png", data)) for data in (b"", b"just text", cut, bomb(20_000, 20_000))]
    assert client.post("/classify?model=tiny", files=[*good, *bad]).status_code == 200
    assert client.post("/embed?model=tiny", files=good[:2]).status_code == 200
    assert client.post("/embed?model=tiny", json={"images": [{"base64": "?"}]}).status_code == 422
    batcher = resources_of(client).engine.batcher
    for taken in (1023, 1024):  # the images are counted; refused before they are received, a request counts as one
        with batcher.admit(taken):
            assert client.post("/classify?model=tiny", files=good).status_code == 429
    found = scrape(client)
    assert found[("clead_images_answered_total", "logits")] == 3
    assert found[("clead_images_answered_total", "features")] == 2
    assert {name[1]: value for name, value in found.items() if name[0] == "clead_images_rejected_total"} == {
        "empty": 1,
        "not_an_image": 1,
        "damaged": 1,
        "too_many_pixels": 1,
        "not_base64": 1,
        "overloaded": 3 + 1,
    }
    assert found[("clead_inference_batch_images_count",)] == 2 and found[("clead_inference_batch_images_sum",)] == 5
    assert found[("clead_inference_batch_images_bucket", "2.0")] == 1
    for histogram in ("forward", "wait"):
        assert found[(f"clead_inference_{histogram}_seconds_count",)] == 2
        assert found[(f"clead_inference_{histogram}_seconds_sum",)] > 0


def test_a_large_request_makes_a_batch_for_each_forward_pass(settings: Settings, register: Register) -> None:
    register("tiny", make_model())
    files = [("images", (f"{index}.png", png(pixels))) for index, pixels in enumerate(random_pixels(5))]
    with TestClient(create_app(settings.model_copy(update={"batch_max_images": 2})), HERE) as client:
        assert client.post("/classify?model=tiny", files=files).status_code == 200
        found = scrape(client)
    assert found[("clead_inference_batch_images_count",)] == 3 and found[("clead_inference_batch_images_sum",)] == 5
    assert found[("clead_inference_wait_seconds_count",)] == 1


def test_queues_workers_and_leases(client: TestClient, database: Database) -> None:
    before = scrape(client)
    for queue in ("train", "evaluate"):
        assert before[("clead_queue_age_seconds", queue)] == before[("clead_workers", queue)] == 0
    with database.writing() as session:
        jobs = [add_job(session, kind="train", queue="train", spec={}) for _ in range(4)]
        held, expired, cancelled = jobs[1:]
        for age, job in enumerate(jobs):
            job.created_at = utc_now() - timedelta(seconds=1000 * (age + 1))
        held.status = expired.status = "running"
        now = session.scalar(epoch_now().select())
        held.lease_until, expired.lease_until = now + 60, now - 60
        cancelled.cancel_requested = True
        add_job(session, kind="protocol", queue=None, spec={}).created_at = utc_now() - timedelta(days=9)
        workers.beat(session, "w1", host="h", pid=1, queues=["train"], job_id=None)
        workers.beat(session, "w2", host="h", pid=2, queues=["train", "evaluate"], job_id=None)
    found = scrape(client)
    assert 3000 <= found[("clead_queue_age_seconds", "train")] < 3900, "the job whose worker is gone is the oldest"
    assert found[("clead_queue_age_seconds", "evaluate")] == 0
    assert (found[("clead_workers", "train")], found[("clead_workers", "evaluate")]) == (2, 1)
    assert found[("clead_leases_expired",)] == 1 and found[("clead_database_up",)] == 1
    assert found[("clead_jobs", "train", "queued")] == found[("clead_jobs", "train", "running")] == 2


def test_process_and_build_are_told(client: TestClient) -> None:
    found = scrape(client)
    assert found[("process_resident_memory_bytes",)] > 1e6
    (build,) = [name for name in found if name[0] == "clead_build_info"]
    assert torch.__version__.partition("+")[0] in build
    assert not any("gpu" in name[0] for name in found), "nothing is told of a device that is not used"


def test_gpu_memory_where_cuda_is_in_use(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only faked part: no test machine has a GPU."""

    class Properties:
        total_memory = 80 * 2**30

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda index: 100 + index)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda index: 200 + index)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    found = scrape(client)
    assert found[("clead_gpu_memory_allocated_bytes", "1")] == 101
    assert found[("clead_gpu_memory_reserved_bytes", "0")] == 200
    assert found[("clead_gpu_memory_total_bytes", "1")] == 80 * 2**30


@pytest.fixture
def on_postgres(tmp_path: Path) -> Iterator[tuple[Settings, servers.Stoppable]]:
    with servers.stoppable_postgres() as server:
        settings = Settings(home=tmp_path, database_url=f"{server.url}/postgres")
        upgrade(settings)
        yield settings, server


def test_metrics_outlive_the_database(on_postgres: tuple[Settings, servers.Stoppable]) -> None:
    """Also for a scraper that shows a token, which only the database knows; nobody else is let in meanwhile."""
    settings, server = on_postgres
    with TestClient(create_app(settings), HERE, raise_server_exceptions=False) as client:
        assert scrape(client)[("clead_database_up",)] == 1
        database = resources_of(client).database
        with database.writing() as session:
            key = secret_key(settings)
            made = [tokens.create(session, name=name, scope="classify", key=key)[1] for name in ("a", "b", "c")]
        seen, revoked, new = ({"Authorization": f"Bearer {token}"} for token in made)
        assert client.get("/metrics").status_code == 401, "from the first token on"
        assert scrape(client, **seen)[("clead_database_up",)] == 1
        scrape(client, **revoked)
        with database.writing() as session:
            tokens.revoke(session, next(each.id for each in tokens.listed(session) if each.name == "b"))
        assert client.get("/metrics", headers=revoked).status_code == 401

        server.stop()
        found = scrape(client, **seen)
        assert found[("clead_database_up",)] == 0
        assert found[("clead_http_requests_total", "GET", "/metrics", "401")] == 2
        assert not any(name[0] in ("clead_jobs", "clead_queue_age_seconds") for name in found)
        for headers in (revoked, new, {}):
            assert client.get("/metrics", headers=headers).status_code == 503
        assert client.get("/jobs", headers=seen).status_code == 503


def test_metrics_outlive_the_database_for_this_machine_by_any_connection(
    on_postgres: tuple[Settings, servers.Stoppable],
) -> None:
    settings, server = on_postgres
    app = create_app(settings)

    def by(port: int) -> TestClient:
        return TestClient(app, HERE, raise_server_exceptions=False, client=("127.0.0.1", port))

    with by(1001):
        scrape(by(1002))
        scrape(by(1003))
        assert app.state.telemetry.let_in == {"127.0.0.1"}
        server.stop()
        assert scrape(by(1004))[("clead_database_up",)] == 0
        assert by(1005).get("/metrics", headers={"Host": "evil.example"}).status_code == 403


def test_scrapes_at_once_do_not_mix(client: TestClient) -> None:
    async def many() -> list[int]:
        calls = [asyncio.to_thread(client.get, "/metrics") for _ in range(8)]
        return [answer.status_code for answer in await asyncio.gather(*calls)]

    assert asyncio.run(many()) == [200] * 8
