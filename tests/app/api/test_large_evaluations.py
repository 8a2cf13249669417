"""A large evaluation over HTTP: one job to look at, its parts only when asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.records.session import Database
from app.services import claims, parents
from tests.app.api.conftest import Register, assert_problem, make_model

BODY = {"dataset": {"name": "digits"}, "attacks": [{"name": "pgd", "eps": 0.1, "steps": 10}], "shard_size": 100}
STEPS = round(360 * (10 + 0.4))


@pytest.fixture
def job(client: TestClient, register: Register) -> dict[str, Any]:
    answer = client.post("/evaluate", json={**BODY, "model": register("net", make_model()), "labels": {"team": "x"}})
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_it_is_listed_alone_and_its_shards_by_their_kind(client: TestClient, job: dict[str, Any]) -> None:
    assert (job["status"], len(job["children"]), job["progress"]["total"]) == ("running", 4, STEPS)
    for query in ("", "?kind=evaluate", "?label=team:x"):
        assert [found["id"] for found in client.get(f"/jobs{query}").json()["items"]] == [job["id"]]
    shards = client.get("/jobs?kind=shard").json()["items"]
    assert sorted(shard["id"] for shard in shards) == job["children"]
    assert {shard["parent"] for shard in shards} == {job["id"]}


def test_its_spec_posted_again_repeats_it(client: TestClient, job: dict[str, Any]) -> None:
    again = client.post("/evaluate", json=job["spec"])
    assert again.status_code == 202, again.text
    assert (again.json()["spec"], len(again.json()["children"])) == (job["spec"], 4)


def test_a_part_cannot_be_posted(client: TestClient, job: dict[str, Any]) -> None:
    assert_problem(
        client.post("/evaluate", json={**job["spec"], "shard": {"index": 0, "of": 4}}), 422, pointer="/shard"
    )
    assert_problem(client.post("/evaluate", json={**job["spec"], "shard_size": 10}), 422, pointer="/shard_size")


def test_its_events_tell_the_progress_of_all_shards(
    client: TestClient, job: dict[str, Any], database: Database
) -> None:
    progress = {"done": 300, "total": STEPS // 4, "unit": "image-step", "stage": "pgd", "eta_seconds": 30.0}
    held = []
    for child in job["children"][:2]:
        with database.writing() as session:
            claim = claims.claim(session, child, owner="w", lease_seconds=60, max_attempts=3)
            assert claim is not None
            claims.renew(session, claim, lease_seconds=60, progress=progress)
        held.append(claim)
    seen = client.get(f"/jobs/{job['id']}").json()["progress"]
    assert (seen["done"], seen["stage"], seen["eta_seconds"] > 30) == (600, "pgd", True)
    with database.writing() as session:
        for claim in held:
            claims.finish(session, claim, status="succeeded", result={"evidence": "0" * 64})
        parents.advance(session, job["id"])
    assert client.post(f"/jobs/{job['id']}/cancel").json()["status"] == "cancelled"
    lines = client.get(f"/jobs/{job['id']}/events").text.splitlines()
    told = [json.loads(line.removeprefix("data:")) for line in lines if line.startswith("data:")]
    assert [event["done"] for event in told if "done" in event] == [STEPS // 2]
