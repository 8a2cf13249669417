"""Reading, following, cancelling and resuming jobs over HTTP; the worker's part is written by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api import events
from app.records import Job, MetricPoint, utc_now
from app.records.session import CONNECTIONS, Database
from app.settings import Settings
from app.storage import Storage
from tests.app.api.conftest import Register, assert_problem, make_model, png, random_pixels, resources_of
from tests.app.api.test_submit import PRETRAIN


def submit(client: TestClient, **fields: Any) -> str:
    response = client.post("/jobs/pretrain", json={**PRETRAIN, **fields})
    assert response.status_code == 202, response.text
    return str(response.json()["id"])


def change(database: Database, job_id: str, **values: Any) -> None:
    with database.writing() as session:
        job = session.get_one(Job, job_id)
        for name, value in values.items():
            setattr(job, name, value)


def measure(database: Database, job_id: str, *steps: int) -> None:
    with database.writing() as session:
        session.add_all([MetricPoint(job_id=job_id, series="loss", step=step, value=1 / step) for step in steps])


def read_events(text: str) -> list[tuple[str, str, Any]]:
    """(event, id, data) of each event of a stream, by the rules of the HTML standard."""
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            found.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return found


def test_filters_and_pages(client: TestClient, database: Database) -> None:
    ids = [submit(client, labels={"team": "a" if index % 2 else "b", "n": str(index)}) for index in range(5)]
    change(database, ids[0], status="failed")

    def listed(query: str) -> list[str]:
        return [item["id"] for item in client.get(f"/jobs?{query}").json()["items"]]

    assert listed("") == ids[::-1]
    assert listed("status=failed") == [ids[0]]
    assert listed("kind=evaluate") == []
    assert listed("label=team:a") == [ids[3], ids[1]]
    assert listed("label=team:a&label=n:3") == [ids[3]]
    assert listed("label=team:a&label=team:b") == []
    first = client.get("/jobs?limit=3").json()
    submit(client)  # a job that arrives between two pages moves none of them
    second = client.get(f"/jobs?limit=3&cursor={first['next_cursor']}").json()
    assert [item["id"] for item in first["items"] + second["items"]] == ids[::-1]
    assert second["next_cursor"] is None
    assert_problem(client.get("/jobs?label=team"), 422, says="key:value", pointer="/label")
    assert_problem(client.get("/jobs?cursor=%00"), 422, pointer="/cursor")
    assert_problem(client.get("/jobs?limit=201"), 422, pointer="/limit")


def test_a_request_that_gets_no_connection_is_told_to_try_again(client: TestClient) -> None:
    engine = resources_of(client).database.engine
    engine.pool._timeout = 0.1  # type: ignore[attr-defined]  # half a minute otherwise
    held = [engine.connect() for _ in range(CONNECTIONS)]
    assert_problem(client.get("/jobs"), 503, says="try again")
    for connection in held:
        connection.close()
    assert client.get("/jobs").status_code == 200


def test_metrics_are_thinned_on_request(client: TestClient, database: Database) -> None:
    job_id = submit(client)
    measure(database, job_id, *range(1, 101))
    assert client.get(f"/jobs/{job_id}/metrics").json()["series"]["loss"] == [
        [step, 1 / step] for step in range(1, 101)
    ]
    thinned = client.get(f"/jobs/{job_id}/metrics?points=3").json()["series"]["loss"]
    assert [point[0] for point in thinned][::2] == [1, 100]
    assert_problem(client.get(f"/jobs/{job_id}/metrics?points=0"), 422, pointer="/points")


def test_the_stream_ends_with_the_final_status_after_every_metric(client: TestClient, database: Database) -> None:
    job_id = submit(client)
    measure(database, job_id, *range(1, events.METRICS_PAGE + 2))
    progress = {"done": 3, "total": 3, "unit": "step", "eta_seconds": 0.0, "stage": "train"}
    change(database, job_id, status="succeeded", progress=progress, finished_at=utc_now())
    stream = client.get(f"/jobs/{job_id}/events")
    assert stream.headers["content-type"].startswith("text/event-stream")
    seen = read_events(stream.text)
    kinds = [kind for kind, _, _ in seen]
    assert kinds.count("metric") == events.METRICS_PAGE + 1
    assert [kind for kind in kinds if kind != "metric"] == ["progress", "status"]
    assert kinds[-1] == "status"
    assert seen[-1][2]["status"] == "succeeded"


def test_a_stream_goes_on_where_it_was_cut(client: TestClient, database: Database) -> None:
    job_id = submit(client)
    measure(database, job_id, 1, 2, 3)
    change(database, job_id, status="succeeded")
    whole = read_events(client.get(f"/jobs/{job_id}/events").text)
    second = next(mark for kind, mark, data in whole if kind == "metric" and data["step"] == 2)
    rest = read_events(client.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": second}).text)
    assert [data["step"] for kind, _, data in rest if kind == "metric"] == [3]
    ended = client.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": whole[-1][1]})
    assert (ended.status_code, ended.text) == (204, "")
    assert client.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": "-'; DROP"}).status_code == 200


def test_cancel_and_resume(client: TestClient) -> None:
    job_id = submit(client)
    cancelled = client.post(f"/jobs/{job_id}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    assert_problem(client.post(f"/jobs/{job_id}/cancel"), 409, says="cancelled already")
    resumed = client.post(f"/jobs/{job_id}/resume")
    assert (resumed.status_code, resumed.json()["status"]) == (202, "queued")
    assert_problem(client.post(f"/jobs/{job_id}/resume"), 409)


def test_a_job_is_not_resumed_without_its_model(client: TestClient, register: Register) -> None:
    body = {"model": register("net", make_model()), "dataset": {"name": "digits"}, "attacks": [{"name": "fgsm"}]}
    job_id = client.post("/evaluate", json=body).json()["id"]
    assert client.post(f"/jobs/{job_id}/cancel").status_code == 202
    assert client.delete("/models/net/versions/1").status_code == 204
    assert_problem(client.post(f"/jobs/{job_id}/resume"), 409, says="needs the model net@1, which was deleted")


def test_examples_link_to_their_pictures(client: TestClient, database: Database, settings: Settings) -> None:
    job_id = submit(client)
    assert client.get(f"/jobs/{job_id}/examples").json() == {"items": [], "file": None, "pruned_at": None}
    assert_problem(client.get(f"/jobs/{job_id}/examples.safetensors"), 404, says="keeps no examples")
    pictures = {
        part: png(pixels) for part, pixels in zip(("clean", "adversarial", "difference"), random_pixels(3), strict=True)
    }
    storage = Storage(settings.storage_url).scoped(f"examples/{job_id}")
    stored = {part: storage.put_bytes(data).sha256 for part, data in pictures.items()}
    seen = {"index": 7, "label": "cat", "clean_prediction": "cat", "adversarial_prediction": "dog"}
    measured = {"attack": "pgd", "linf": 0.1, "l2": 0.5}
    change(database, job_id, examples=[{**seen, **measured, **stored}])
    kept = storage.put_bytes(b"exact pixels")
    change(database, job_id, result={"examples_file": {"sha256": kept.sha256, "size": kept.size}})
    listed = client.get(f"/jobs/{job_id}/examples").json()
    exact = client.get(listed["file"])
    assert (exact.content, exact.headers["etag"]) == (b"exact pixels", f'"{kept.sha256}"')
    assert f"examples-{job_id}.safetensors" in exact.headers["content-disposition"]
    example = listed["items"][0]
    assert (example["index"], example["label"], example["adversarial_prediction"]) == (7, "cat", "dog")
    for part, data in pictures.items():
        picture = client.get(example[part])
        assert (picture.content, picture.headers["content-type"]) == (data, "image/png")
    assert_problem(client.get(f"/jobs/{job_id}/examples/1/clean.png"), 404, says="keeps 1")
    assert_problem(client.get(f"/jobs/{job_id}/examples/0/other.png"), 422)
    change(database, job_id, examples=None, result={"examples_pruned_at": "2026-01-31T12:00:00.000Z"})
    pruned = {"items": [], "file": None, "pruned_at": "2026-01-31T12:00:00.000Z"}
    assert client.get(f"/jobs/{job_id}/examples").json() == pruned
    for part in ("/0/clean.png", ".safetensors"):
        assert_problem(client.get(f"/jobs/{job_id}/examples{part}"), 404, says="pruned at 2026-01-31")


@pytest.mark.parametrize(
    "rest", ["", "/metrics", "/events", "/examples", "/examples/0/clean.png", "/examples.safetensors"]
)
def test_a_job_that_is_not_there(client: TestClient, rest: str) -> None:
    assert_problem(client.get(f"/jobs/none{rest}"), 404, says="there is no job 'none'")


def test_comparing_what_cannot_be_compared(client: TestClient) -> None:
    assert_problem(client.get("/compare?jobs=none"), 404)
    assert_problem(client.get("/compare?jobs=,"), 422, pointer="/jobs")
    assert_problem(client.get("/compare"), 422, pointer="/jobs")
    assert_problem(client.get("/compare?jobs=a&format=pdf"), 422, pointer="/format")
