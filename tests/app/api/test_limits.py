"""Limits of an account over HTTP: 429 with the seconds to wait, and what they never refuse."""

from __future__ import annotations

from fastapi.testclient import TestClient
from httpx import Response
from safetensors.torch import save

from app.api.limits import RateLimits
from app.errors import OverloadedError
from app.main import create_app
from app.settings import Settings
from tests.app.api.conftest import HERE, Issue, assert_problem, bearer, make_model
from tests.app.api.test_dataset_routes import folder_zip
from tests.app.api.test_submit import PRETRAIN


def assert_wait(answer: Response, *, says: str) -> None:
    assert_problem(answer, 429, says=says)
    assert 1 <= int(answer.headers["retry-after"]) <= 120


def test_more_requests_a_minute_than_allowed_wait(client: TestClient, issue: Issue) -> None:
    _, token = issue("submit", name="ann", requests_per_minute=5)
    _, sibling = issue("submit", name="ann", requests_per_minute=5)
    _, other = issue("submit", name="bob", requests_per_minute=5)
    for _ in range(5):
        assert client.get("/jobs", headers=bearer(token)).status_code == 200
    assert_wait(client.get("/jobs", headers=bearer(token)), says="'ann' may send 5 requests a minute")
    assert_wait(client.post("/classify", headers=bearer(sibling)), says="5 requests")
    assert client.get("/jobs", headers=bearer(other)).status_code == 200
    assert client.get("/healthz", headers=bearer(token)).status_code == 200


def test_an_upload_counts_once(client: TestClient, issue: Issue) -> None:
    _, token = issue("submit", requests_per_minute=2)
    for status in (422, 422, 429):
        answer = client.post("/datasets", data={"name": "a"}, files={"file": b"no zip"}, headers=bearer(token))
        assert_problem(answer, status)


def test_the_services_limit_holds_for_tokens_without_their_own(settings: Settings, issue: Issue) -> None:
    _, token = issue()
    strict = settings.model_copy(update={"token_requests_per_minute": 1})
    with TestClient(create_app(strict), HERE) as client:
        assert client.get("/jobs", headers=bearer(token)).status_code == 200
        assert client.get("/jobs", headers=bearer(token)).status_code == 429


def test_without_tokens_there_are_no_limits(settings: Settings) -> None:
    strict = {"token_requests_per_minute": 1, "token_unfinished_jobs": 1, "token_stored_bytes": 1}
    with TestClient(create_app(settings.model_copy(update=strict)), HERE) as client:
        assert [client.post("/jobs/pretrain", json=PRETRAIN).status_code for _ in range(3)] == [202] * 3


def test_zero_is_no_limit() -> None:
    rates = RateLimits()
    for _ in range(100):
        rates.count("ann", per_minute=0)
    rates.count("ann", per_minute=1)
    try:
        rates.count("ann", per_minute=1)
    except OverloadedError as error:
        assert error.retry_after >= 1
    else:
        raise AssertionError("the second request of a minute was let through")


def test_one_job_too_many_waits_and_a_repeated_request_does_not(client: TestClient, issue: Issue) -> None:
    _, token = issue("submit", unfinished_jobs=1)
    headers = bearer(token) | {"Idempotency-Key": "k"}
    job = client.post("/jobs/pretrain", json=PRETRAIN, headers=headers).json()
    assert client.post("/jobs/pretrain", json=PRETRAIN, headers=headers).json()["id"] == job["id"]
    assert_wait(client.post("/jobs/pretrain", json=PRETRAIN, headers=bearer(token)), says="queued or running")
    # A spec that can never run is refused as such: waiting would not help.
    wrong = {**PRETRAIN, "dataset": {"name": "nothing"}}
    assert_problem(client.post("/jobs/pretrain", json=wrong, headers=bearer(token)), 422)
    assert client.post(f"/jobs/{job['id']}/cancel", headers=bearer(token)).status_code == 202
    second = client.post("/jobs/pretrain", json=PRETRAIN, headers=bearer(token)).json()
    assert_wait(client.post(f"/jobs/{job['id']}/resume", headers=bearer(token)), says="queued or running")
    client.post(f"/jobs/{second['id']}/cancel", headers=bearer(token))
    assert client.post(f"/jobs/{job['id']}/resume", headers=bearer(token)).status_code == 202


def test_a_full_account_stores_nothing_more(client: TestClient, issue: Issue) -> None:
    model = make_model()
    weights, card = save(model.state_dict()), model.card.model_dump_json()
    _, token = issue("submit", stored_bytes=5000)

    def upload() -> Response:
        files, data = {"weights": weights}, {"card": card}
        return client.post("/models/mine/versions", files=files, data=data, headers=bearer(token))

    stored = upload().json()["size"]
    assert 2500 < stored < 5000
    assert_wait(upload(), says=f"{stored} of the 5000 bytes")
    photos = folder_zip()
    assert len(photos) > 5000 - stored
    answer = client.post("/datasets", data={"name": "photos"}, files={"file": photos}, headers=bearer(token))
    assert_wait(answer, says="may store")
    assert len(client.get("/models/mine", headers=bearer(token)).json()["versions"]) == 1
    assert client.get("/datasets/photos", headers=bearer(token)).status_code == 404
    assert client.post("/jobs/pretrain", json=PRETRAIN, headers=bearer(token)).status_code == 202
