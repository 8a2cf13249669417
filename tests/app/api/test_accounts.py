"""What one account sees and changes of another's: nothing, unless it is an administrator's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from safetensors.torch import save

from app.records import Model
from app.records.session import Database
from app.services import tokens
from tests.app.api.conftest import Issue, assert_problem, bearer, make_model
from tests.app.api.test_access import every_operation
from tests.app.api.test_dataset_routes import folder_zip
from tests.app.api.test_submit import PRETRAIN

Ask = Callable[..., Response]
TRAIN = {"method": "standard", "batch_size": 2, "epochs": 1, "backbone": {"width": 4, "blocks": [1]}}


@pytest.fixture
def ann(client: TestClient, issue: Issue) -> Ask:
    return asking(client, issue("submit", name="ann")[1])


@pytest.fixture
def bob(client: TestClient, issue: Issue) -> Ask:
    return asking(client, issue("submit", name="bob")[1])


@pytest.fixture
def admin(client: TestClient, issue: Issue) -> Ask:
    return asking(client, issue("admin", name="root")[1])


def asking(client: TestClient, token: str) -> Ask:
    """Requests with this token."""

    def ask(method: str, path: str, **options: Any) -> Response:
        headers = options.pop("headers", {}) | bearer(token)
        return client.request(method, path, headers=headers, **options)

    return ask


def submitted(ask: Ask, path: str = "/jobs/pretrain", body: Any = PRETRAIN, **options: Any) -> dict[str, Any]:
    answer = ask("POST", path, json=body, **options)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


PHOTOS = folder_zip()  # once: a zip holds the time at which it was made


def upload(ask: Ask, name: str) -> Response:
    return ask("POST", "/datasets", data={"name": name}, files={"file": ("data.zip", PHOTOS)})


def test_every_operation_on_anothers_job_says_that_there_is_none(
    client: TestClient, ann: Ask, bob: Ask, admin: Ask
) -> None:
    job_id = submitted(ann)["id"]
    operations = [(method, path) for method, path in every_operation(client) if "{job_id}" in path]
    assert len(operations) >= 8
    for method, path in operations:
        filled = path.format(job_id=job_id, index=0, part="clean")
        said = f"there is no job {job_id!r}"
        assert assert_problem(bob(method, filled), 404)["detail"] == said
        if not path.endswith("/events"):  # follows the job to its end
            assert said not in ann(method, filled).text
            assert said not in admin(method, filled).text
    assert assert_problem(bob("GET", f"/compare?jobs={job_id}"), 404)["detail"] == f"there is no job {job_id!r}"
    assert ann("GET", f"/compare?jobs={job_id}").status_code == 409


def test_a_list_holds_ones_own_jobs_and_an_administrators_all(ann: Ask, bob: Ask, admin: Ask) -> None:
    theirs = {name: submitted(ask)["id"] for name, ask in (("ann", ann), ("bob", bob), ("root", admin))}
    accounts = {job["id"]: job["account"] for job in admin("GET", "/jobs").json()["items"]}
    assert accounts == {job_id: name for name, job_id in theirs.items()}
    assert [job["id"] for job in ann("GET", "/jobs").json()["items"]] == [theirs["ann"]]
    assert [job["id"] for job in bob("GET", "/jobs?kind=pretrain&status=queued").json()["items"]] == [theirs["bob"]]


def test_the_steps_of_a_protocol_are_its_owners(ann: Ask, bob: Ask) -> None:
    parent = submitted(ann, "/jobs/protocol", {"dataset": {"name": "digits"}, "methods": ["standard"]})
    (step,) = parent["children"]
    assert ann("GET", f"/jobs/{step}").json()["account"] == "ann"
    assert bob("GET", f"/jobs/{step}").status_code == 404


def test_tokens_of_one_name_are_one_account(client: TestClient, issue: Issue, ann: Ask) -> None:
    job_id = submitted(ann)["id"]
    successor = asking(client, issue("submit", name="ann")[1])
    assert successor("GET", f"/jobs/{job_id}").status_code == 200


def test_what_was_made_without_a_token_is_the_administrators(client: TestClient, issue: Issue) -> None:
    job = client.post("/jobs/pretrain", json=PRETRAIN).json()
    assert job["account"] is None
    for scope, status in (("submit", 404), ("admin", 200)):
        assert client.get(f"/jobs/{job['id']}", headers=bearer(issue(scope)[1])).status_code == status


def test_a_data_set_is_its_uploaders(ann: Ask, bob: Ask, admin: Ask) -> None:
    assert upload(ann, "photos").status_code == 201
    body = {**TRAIN, "dataset": {"name": "photos"}}
    for ask, status in ((ann, 202), (admin, 202), (bob, 422)):
        assert ask("POST", "/jobs/train", json=body).status_code == status
    refused = assert_problem(bob("POST", "/jobs/train", json=body), 422, pointer="/dataset/name")
    assert "known: " in refused["detail"] and "photos" not in refused["detail"].partition("known: ")[2]
    assert_problem(bob("GET", "/datasets/photos"), 404)
    assert "photos" not in bob("GET", "/datasets").text and "photos" in ann("GET", "/datasets").text
    # Not even with the same bytes: whoever guesses them would learn that they are here.
    assert_problem(upload(bob, "photos"), 409, says="taken")
    assert upload(ann, "photos").status_code == 201


def test_a_models_name_is_its_first_registrars(ann: Ask, bob: Ask, admin: Ask) -> None:
    submitted(ann, body={**PRETRAIN, "register_as": "mine"})
    body = {**PRETRAIN, "register_as": "mine"}
    assert_problem(bob("POST", "/jobs/pretrain", json=body), 422, says="another name", pointer="/register_as")
    submitted(ann, body=body)
    submitted(admin, body=body)
    files = {"weights": save({}), "card": (None, "{}")}
    assert bob("POST", "/models/mine/versions", files=files).status_code in {403, 422}
    protocol = {"dataset": {"name": "digits"}, "methods": ["standard", "clead"], "register_prefix": "p"}
    submitted(ann, "/jobs/protocol", protocol)
    assert_problem(bob("POST", "/jobs/protocol", json=protocol), 422, pointer="/register_prefix")
    # The probe of the protocol comes hours later; its name is kept, too.
    assert_problem(bob("POST", "/jobs/pretrain", json={**body, "register_as": "p-clead"}), 422, says="p-clead")


def test_a_default_name_that_is_anothers_is_followed_by_the_account(ann: Ask, client: TestClient, issue: Issue) -> None:
    """Two people who post the same example both get a model."""
    camera = asking(client, issue("submit", name="camera 7/é")[1])
    protocol = {"dataset": {"name": "digits"}, "methods": ["standard"]}
    found = []
    for ask in (ann, camera, camera):
        spec = submitted(ask)["spec"]
        prefix = submitted(ask, "/jobs/protocol", protocol)["spec"]["register_prefix"]
        found.append((spec["register_as"], prefix))
        assert submitted(ask, body=spec)["spec"] == spec
    assert found[0] == ("clead-resnet18-digits", "digits")
    assert found[1] == found[2] == ("clead-resnet18-digits-camera-7", "digits-camera-7")


def test_a_version_is_uploaded_to_ones_own_model_alone(ann: Ask, bob: Ask, admin: Ask) -> None:
    model = make_model()
    weights = save(model.state_dict())
    parts = {"files": {"weights": weights}, "data": {"card": model.card.model_dump_json()}}
    assert ann("POST", "/models/mine/versions", **parts).status_code == 201
    assert_problem(bob("POST", "/models/mine/versions", **parts), 403, says="another name")
    assert bob("GET", "/models/mine").json()["versions"][0]["version"] == 1, "the registry is everybody's to read"
    assert admin("POST", "/models/mine/versions", **parts).json()["version"] == 2


def test_a_refused_submission_reserves_no_name(ann: Ask, bob: Ask, database: Database) -> None:
    wrong = {**PRETRAIN, "register_as": "mine", "epochs": -1}
    assert ann("POST", "/jobs/pretrain", json=wrong).status_code == 422
    with database.session() as session:
        assert session.get(Model, "mine") is None
    submitted(bob, body={**PRETRAIN, "register_as": "mine"})
    assert bob("GET", "/models").json()["items"] == [], "a name without a version is no model"


def test_an_account_has_idempotency_keys_of_its_own(ann: Ask, bob: Ask) -> None:
    key = {"Idempotency-Key": "k"}
    mine = submitted(ann, headers=key)["id"]
    theirs = submitted(bob, body={**PRETRAIN, "register_as": "bobs", "epochs": 2}, headers=key)["id"]
    assert mine != theirs
    assert submitted(ann, headers=key)["id"] == mine


def test_an_administrator_owns_everything_and_nobody_owns_what_has_no_account() -> None:
    admin, nameless = tokens.Principal(scope="admin", account="root"), tokens.Principal(scope="submit")
    assert admin.owns("ann") and admin.owns(None)
    assert not nameless.owns(None) and not nameless.owns("ann")
