"""Corruptions over HTTP: the catalog, what is refused, and one small job on a real worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.records import FINAL
from app.records.session import Database
from app.schemas import examples
from app.settings import Settings
from app.storage import Storage
from tests.app.api.conftest import Register, assert_problem, make_model
from tests.deployment import Deployment
from tests.servers import wait_for

BODY: dict[str, Any] = {"model": "tiny", "dataset": {"name": "digits", "subset": 30}}


def test_the_catalog_tells_what_each_corruption_does(client: TestClient) -> None:
    items = client.get("/corruptions").json()["items"]
    assert len(items) == 15
    by_name = {item["name"]: item for item in items}
    assert by_name["motion_blur"]["severities"][4] == {"radius": 9, "sigma": 2.5}
    assert all("1903.12261" in item["source"] and item["formula"] for item in items)
    assert "procedural" in by_name["frost"]["note"] and by_name["fog"]["note"] is None


def test_a_job_names_what_it_will_measure_and_can_be_posted_again(client: TestClient, register: Register) -> None:
    register("tiny", make_model())
    response = client.post("/evaluate/corruptions", json={**BODY, "labels": {"team": "vision"}})
    job = response.json()
    assert response.status_code == 202 and response.headers["location"] == f"/jobs/{job['id']}"
    assert (job["kind"], job["status"], job["labels"]) == ("corruptions", "queued", {"team": "vision"})
    assert job["spec"]["model"] == "tiny@1" and job["spec"]["severities"] == [1, 2, 3, 4, 5]
    assert job["spec"]["corruptions"] == [item["name"] for item in client.get("/corruptions").json()["items"]]
    assert client.post("/evaluate/corruptions", json=job["spec"]).json()["spec"] == job["spec"]
    assert [found["id"] for found in client.get("/jobs?kind=corruptions&label=team:vision").json()["items"]] == [
        job["id"]
    ]
    assert_problem(client.get(f"/compare?jobs={job['id']}"), 409, says="only finished evaluations")


def test_the_documented_example_is_accepted(client: TestClient, register: Register) -> None:
    for _ in range(2):
        register("clead-r18", make_model(shape=(3, 32, 32)))
    assert client.post("/evaluate/corruptions", json=examples.CORRUPTIONS).status_code == 202


@pytest.mark.parametrize(
    ("fields", "pointer", "says"),
    [
        ({"corruptions": ["fog", "rain"]}, "/corruptions/1", "known: brightness, contrast, defocus_blur"),
        ({"severities": [9]}, "/severities/0", "less than or equal to 5"),
        ({"corruption": ["fog"]}, "/corruption", "did you mean 'corruptions'"),
        ({"model": "coder"}, "/model", "a classifier is needed"),
        ({"model": "large"}, "/model", "takes images"),
        ({"dataset": {"name": "digit"}}, "/dataset/name", "known"),
        ({"register_as": "x"}, "/register_as", "unknown field"),
    ],
)
def test_a_spec_that_cannot_run_is_refused_where_it_is_wrong(
    client: TestClient, register: Register, fields: dict[str, Any], pointer: str, says: str
) -> None:
    register("tiny", make_model())
    register("coder", make_model(kind="encoder"))
    register("large", make_model(shape=(3, 32, 32)))
    response = client.post("/evaluate/corruptions", json={**BODY, **fields})
    problem = assert_problem(response, 422, says=says, pointer=pointer)
    assert len(problem["errors"]) == 1


def test_a_worker_measures_the_accuracies(
    client: TestClient, register: Register, settings: Settings, database: Database, tmp_path: Path
) -> None:
    reference = register("tiny", make_model())
    body = {**BODY, "corruptions": ["fog", "jpeg_compression"], "severities": [1, 4]}
    job = client.post("/evaluate/corruptions", json=body).json()
    deployment = Deployment(settings, database, Storage(settings.storage_url), tmp_path / "worker.log")
    try:
        deployment.start_worker()
        wait_for(lambda: client.get(f"/jobs/{job['id']}").json()["status"] in FINAL, seconds=120, what="the evaluation")
    finally:
        deployment.close()
    finished = client.get(f"/jobs/{job['id']}").json()
    assert finished["status"] == "succeeded", finished["error"]
    result = finished["result"]
    assert finished["progress"]["done"] == finished["progress"]["total"] == 30 * 5
    assert result["model"] == reference and result["dataset"]["size"] == 30
    assert [row["name"] for row in result["corruptions"]] == ["fog", "jpeg_compression"]
    accuracies = [point["accuracy"] for row in result["corruptions"] for point in row["severities"]]
    assert result["mean_corruption_accuracy"] == pytest.approx(sum(accuracies) / 4)
