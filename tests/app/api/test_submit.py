"""Submitting jobs: what is accepted, what is refused and where it says so, and what a repeated request does."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from app.main import create_app
from app.queue import broker_folder
from app.records import Job
from app.records.session import Database
from app.schemas import examples
from app.settings import Settings
from tests.app.api.conftest import HERE, Register, assert_problem, make_model

PRETRAIN = {
    "method": "clead",
    "backbone": {"width": 4, "blocks": [1]},
    "dataset": {"name": "digits"},
    "batch_size": 64,
    "epochs": 1,
}
EVALUATE: dict[str, Any] = {
    "model": "tiny",
    "dataset": {"name": "digits"},
    "attacks": [{"name": "fgsm", "eps": "8/255"}],
}


def count_jobs(database: Database) -> int:
    with database.session() as session:
        return session.scalars(select(func.count()).select_from(Job)).one()


def test_a_job_is_answered_with_its_address_and_every_default(client: TestClient) -> None:
    response = client.post("/jobs/pretrain", json={**PRETRAIN, "register_as": "mine", "labels": {"team": "vision"}})
    job = response.json()
    assert response.status_code == 202
    assert response.headers["location"] == f"/jobs/{job['id']}"
    assert (job["kind"], job["status"], job["labels"]) == ("pretrain", "queued", {"team": "vision"})
    assert job["spec"]["register_as"] == "mine"
    assert job["spec"]["temperature"] == 0.1
    assert [view["eps"] for view in job["spec"]["views"]] == [8 / 255, 8 / 255]
    assert client.get(response.headers["location"]).json() == job


def test_posting_a_resolved_spec_again_gives_the_same_spec(client: TestClient, register: Register) -> None:
    register("tiny", make_model())
    for path, body in (("/jobs/pretrain", PRETRAIN), ("/evaluate", EVALUATE)):
        first = client.post(path, json=body).json()["spec"]
        assert client.post(path, json=first).json()["spec"] == first


def test_a_committed_job_is_published_by_its_id(client: TestClient, settings: Settings) -> None:
    job = client.post("/jobs/pretrain", json=PRETRAIN).json()
    messages = list((broker_folder(settings) / "messages").iterdir())
    assert len(messages) == 1
    assert "train" in messages[0].name
    assert job["id"] in client.get("/jobs").text


def test_a_job_is_accepted_while_the_broker_is_down(settings: Settings, database: Database) -> None:
    unreachable = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    with TestClient(create_app(unreachable), HERE) as client:
        assert client.post("/jobs/pretrain", json=PRETRAIN).status_code == 202
        assert client.get("/readyz").json()["checks"]["broker"]["ok"] is False
    assert count_jobs(database) == 1


@pytest.mark.parametrize(
    ("path", "body", "pointer", "says"),
    [
        ("/jobs/pretrain", {**PRETRAIN, "epoch": 3}, "/epoch", "did you mean 'epochs'"),
        ("/jobs/pretrain", {**PRETRAIN, "method": "cleda"}, "/method", "unknown method 'cleda'; give one of: acl"),
        (
            "/jobs/pretrain",
            {**PRETRAIN, "method": "standard"},
            "/method",
            "'standard' is a method of POST /jobs/train; here give one of: acl",
        ),
        (
            "/jobs/train",
            PRETRAIN,
            "/method",
            "'clead' is a method of POST /jobs/pretrain; here give one of: advprop",
        ),
        ("/jobs/pretrain", {"dataset": {"name": "digits"}}, "/method", "give one of"),
        (
            "/jobs/pretrain",
            {**PRETRAIN, "views": [{"name": "pgd", "step": 5}]},
            "/views/0/step",
            "did you mean 'steps'",
        ),
        ("/jobs/pretrain", {**PRETRAIN, "dataset": {"name": "digit"}}, "/dataset/name", "known"),
        ("/jobs/pretrain", {**PRETRAIN, "dataset": {"name": "digits", "subset": 10**6}}, "/dataset/subset", "1437"),
        ("/jobs/pretrain", {**PRETRAIN, "backbone": {"name": "resnet19"}}, "/backbone/name", "known"),
        ("/jobs/pretrain", {**PRETRAIN, "temperature": 1e999}, "/temperature", "finite"),
        ("/jobs/pretrain", {**PRETRAIN, "temperature": -1}, "/temperature", "greater"),
        ("/jobs/pretrain", {**PRETRAIN, "labels": {"a": 1}}, "/labels/a", "string"),
        ("/jobs/pretrain", {**PRETRAIN, "labels": {"a/b": "\n"}}, "/labels/a~1b", "pattern"),
        ("/jobs/pretrain", {**PRETRAIN, "register_as": "a b"}, "/register_as", "pattern"),
        ("/jobs/train", {**PRETRAIN, "method": "standard", "views": []}, "/views", "unknown field"),
        ("/jobs/probe", {"model": "none", "dataset": {"name": "digits"}}, "/model", "there is no model"),
        ("/jobs/protocol", {"preset": "quik", "dataset": {"name": "digits"}}, "/preset", "quick"),
        ("/jobs/protocol", {"dataset": {"name": "digits"}, "methods": ["standard", "x"]}, "/methods/1", "known"),
        (
            "/evaluate",
            {**EVALUATE, "attacks": [{"name": "pgd", "step": 20}]},
            "/attacks/0/step",
            "did you mean 'steps'",
        ),
        (
            "/evaluate",
            {**EVALUATE, "attacks": [{"name": "fgsm", "steps": 5}]},
            "/attacks/0/steps",
            "unknown field; known: eps, name, norm",
        ),
        (
            "/jobs/train",
            {"method": "pgd-at", "dataset": {"name": "digits"}, "temperature": 1},
            "/temperature",
            "known: a",
        ),
        ("/evaluate", {**EVALUATE, "attacks": [{"name": "fgsm"}, {"name": "pdg"}]}, "/attacks/1/name", "known"),
        ("/evaluate", {**EVALUATE, "attacks": [{"name": "pgd", "eps": "8/0"}]}, "/attacks/0/eps", "divides by zero"),
        ("/evaluate", {**EVALUATE, "attacks": []}, "/attacks", "at least 1"),
        ("/evaluate", {**EVALUATE, "model": "coder"}, "/model", "a classifier is needed"),
        ("/evaluate", {**EVALUATE, "model": "large"}, "/model", "takes images"),
        ("/evaluate", [1, 2], "", "object"),
    ],
)
def test_a_spec_that_cannot_run_is_refused_where_it_is_wrong(
    client: TestClient, register: Register, path: str, body: Any, pointer: str, says: str
) -> None:
    register("tiny", make_model())
    register("coder", make_model(kind="encoder"))
    register("large", make_model(shape=(3, 32, 32)))
    text = json.dumps(body).replace("Infinity", "1e999")  # valid JSON that Python reads as infinity
    response = client.post(path, content=text, headers={"content-type": "application/json"})
    problem = assert_problem(response, 422, says=says, pointer=pointer)
    assert len(problem["errors"]) == 1
    assert client.get("/jobs").json()["items"] == []


def test_all_errors_are_told_at_once(client: TestClient) -> None:
    body = {**PRETRAIN, "epochs": 0, "optimiser": {}, "dataset": {"name": "digits", "size": 3}}
    problem = assert_problem(client.post("/jobs/pretrain", json=body), 422)
    assert {error["pointer"] for error in problem["errors"]} == {"/epochs", "/optimiser", "/dataset/size"}


@pytest.mark.parametrize(
    ("path", "example"),
    [
        ("/jobs/pretrain", examples.PRETRAIN),
        ("/jobs/probe", examples.PROBE),
        ("/jobs/train", examples.TRAIN),
        ("/jobs/protocol", examples.PROTOCOL),
        ("/evaluate", examples.EVALUATE),
    ],
)
def test_the_documented_examples_are_accepted(
    client: TestClient, register: Register, path: str, example: dict[str, Any]
) -> None:
    register("clead-r18", make_model(kind="encoder", shape=(3, 32, 32)))
    register("clead-r18", make_model(shape=(3, 32, 32)))
    response = client.post(path, json=example)
    assert response.status_code == 202, response.text


def test_a_protocol_has_its_first_children_at_once(client: TestClient, settings: Settings) -> None:
    job = client.post("/jobs/protocol", json=examples.PROTOCOL).json()
    children = [client.get(f"/jobs/{child}").json() for child in job["children"]]
    assert {child["parent"] for child in children} == {job["id"]}
    assert {child["kind"] for child in children} == {"train", "pretrain"}
    assert len(list((broker_folder(settings) / "messages").iterdir())) == len(children)


def test_the_same_key_and_body_answer_the_first_job(client: TestClient, database: Database) -> None:
    key = {"Idempotency-Key": "once"}
    first = client.post("/jobs/pretrain", json=PRETRAIN, headers=key)
    again = client.post("/jobs/pretrain", json=dict(reversed(PRETRAIN.items())), headers=key)
    assert (again.status_code, again.json(), again.headers["location"]) == (
        202,
        first.json(),
        first.headers["location"],
    )
    assert_problem(client.post("/jobs/pretrain", json={**PRETRAIN, "seed": 1}, headers=key), 409, says="another body")
    assert client.post("/jobs/train", json={**PRETRAIN, "method": "standard"}, headers=key).status_code == 202
    assert count_jobs(database) == 2


def test_a_refused_request_does_not_use_up_its_key(client: TestClient) -> None:
    key = {"Idempotency-Key": "once"}
    assert client.post("/jobs/pretrain", json={**PRETRAIN, "dataset": {"name": "x"}}, headers=key).status_code == 422
    assert client.post("/jobs/pretrain", json=PRETRAIN, headers=key).status_code == 202


def test_the_same_request_many_times_at_once_makes_one_job(client: TestClient, database: Database) -> None:
    answers: list[Any] = []
    together = threading.Barrier(8)

    def send() -> None:
        together.wait()
        answers.append(client.post("/jobs/pretrain", json=PRETRAIN, headers={"Idempotency-Key": "once"}))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert count_jobs(database) == 1
