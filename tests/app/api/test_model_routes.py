"""The model registry over HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import load, save

from app.settings import Settings
from models.checkpoints import save_model
from tests.app.api.conftest import Register, assert_problem, make_model, resources_of


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    save_model(tmp_path / "model.safetensors", make_model())
    return (tmp_path / "model.safetensors").read_bytes()


def test_an_uploaded_version_comes_back_byte_for_byte(client: TestClient, weights: bytes) -> None:
    created = client.post("/models/mine/versions", files={"weights": weights})
    version = created.json()
    assert (created.status_code, created.headers["location"]) == (201, "/models/mine/versions/1")
    assert version["card"]["classes"] == [f"class {index}" for index in range(10)]
    assert client.get(created.headers["location"]).json() == version
    downloaded = client.get("/models/mine/versions/1/weights")
    assert downloaded.content == weights
    assert downloaded.headers["etag"] == f'"{version["sha256"]}"'
    assert client.get("/models").json()["items"] == [{**version, "all_aliases": {}}]
    assert client.get("/models/mine").json() == {"name": "mine", "aliases": {}, "versions": [version]}


def test_a_card_may_come_beside_the_weights(client: TestClient, weights: bytes) -> None:
    bare = save(load(weights))
    card = make_model().card.model_dump_json()
    assert_problem(client.post("/models/m/versions", files={"weights": bare}), 422, says="no card", pointer="/weights")
    assert client.post("/models/m/versions", files={"weights": bare}, data={"card": card}).status_code == 201


def test_an_upload_is_repeated_safely(client: TestClient, weights: bytes) -> None:
    key = {"Idempotency-Key": "upload"}
    first = client.post("/models/mine/versions", files={"weights": weights}, headers=key)
    assert client.post("/models/mine/versions", files={"weights": weights}, headers=key).json() == first.json()
    assert len(client.get("/models/mine").json()["versions"]) == 1


def test_weights_that_do_not_fit_are_refused(client: TestClient, weights: bytes, settings: Settings) -> None:
    url = "/models/mine/versions"
    card = json.loads(make_model().card.model_dump_json())
    wide = json.dumps({**card, "backbone": {**card["backbone"], "width": 1024, "blocks": [100] * 4}})
    assert_problem(client.post(url, files={"weights": b"\x80\x04pickle"}), 422, says="safetensors", pointer="/weights")
    assert_problem(client.post(url, files={"weights": weights}, data={"card": wide}), 422, pointer="/weights")
    misspelt = json.dumps({**card, "backbone": {"widht": 4}})
    refused = client.post(url, files={"weights": weights}, data={"card": misspelt})
    assert_problem(refused, 422, pointer="/card/backbone/widht")
    assert_problem(client.post(url, files={"weights": weights}, data={"card": "{"}), 422, pointer="/card")
    tensors = load(weights)
    tensors["head.bias"] = torch.full_like(tensors["head.bias"], float("nan"))
    refused = client.post(url, files={"weights": save(tensors)}, data={"card": json.dumps(card)})
    assert_problem(refused, 422, says="NaN")
    assert_problem(client.post(url), 422, pointer="/weights")
    assert client.get("/models").json()["items"] == []


def test_aliases_move_only_to_versions_that_load(client: TestClient, register: Register, settings: Settings) -> None:
    register("tiny", make_model(seed=1))
    register("tiny", make_model(seed=2))
    url = "/models/tiny/aliases/production"
    assert client.put(url, json={"version": 1}).json() == {"name": "tiny", "alias": "production", "version": 1}
    assert resources_of(client).engine.loaded == ["tiny@1"]
    assert_problem(client.put(url, json={"version": 3}), 404)
    assert_problem(client.put(url, json={"verison": 2}), 422, says="did you mean 'version'", pointer="/verison")
    sha256 = client.get("/models/tiny/versions/2").json()["sha256"]
    (settings.home / "storage" / sha256[:2] / sha256).unlink()
    assert_problem(client.put(url, json={"version": 2}), 503, says="cannot be loaded")
    assert client.get("/models/tiny").json()["aliases"] == {"production": 1}
    [newest] = client.get("/models").json()["items"]
    assert (newest["version"], newest["aliases"], newest["all_aliases"]) == (2, [], {"production": 1})


def test_deleting(client: TestClient, register: Register) -> None:
    register("tiny", make_model(seed=1))
    register("tiny", make_model(seed=2))
    client.put("/models/tiny/aliases/best", json={"version": 1})
    sha256 = client.get("/models/tiny/versions/1").json()["sha256"]
    assert_problem(client.delete("/models/tiny/versions/1"), 409, says="best")
    assert client.delete("/models/tiny/aliases/best").status_code == 204
    assert client.delete("/models/tiny/versions/1").status_code == 204
    assert not resources_of(client).storage.exists(sha256)
    assert_problem(client.get("/models/tiny/versions/1"), 404)
    assert client.delete("/models/tiny").status_code == 204
    assert_problem(client.get("/models/tiny"), 404)
    assert_problem(client.delete("/models/tiny/aliases/best"), 404)


def test_weights_stay_as_long_as_a_version_has_them(client: TestClient, register: Register) -> None:
    register("one", make_model())
    register("two", make_model())
    sha256 = client.get("/models/one/versions/1").json()["sha256"]
    assert client.delete("/models/one").status_code == 204
    assert client.get("/models/two/versions/1/weights").status_code == 200
    assert client.delete("/models/two").status_code == 204
    assert not resources_of(client).storage.exists(sha256)


def test_models_come_in_pages_newest_first(client: TestClient, register: Register) -> None:
    model = make_model()
    for name in "abcde":
        register(name, model)
    found: list[str] = []
    cursor = ""
    while cursor is not None:
        page = client.get(f"/models?limit=2{cursor and f'&cursor={cursor}'}").json()
        found += [item["name"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert found == list("edcba")
