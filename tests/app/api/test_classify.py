"""POST /classify and /embed: against the network used by hand, with bad images among good ones, and under load."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from pydantic import BaseModel, TypeAdapter
from torch import Tensor

from app.api import inference, requests
from app.main import create_app
from app.schemas.inference import Classification, Embeddings
from app.serving import inference as answers
from app.settings import Settings
from models.networks import ImageModel
from tests.app.api.conftest import (
    HERE,
    Register,
    assert_problem,
    make_model,
    png,
    random_pixels,
    resources_of,
)
from tests.app.serving.test_decode import bomb


def files(*pictures: tuple[str, bytes]) -> list[Any]:
    return [("images", picture) for picture in pictures]


def probabilities(model: ImageModel, pixels: Any) -> Tensor:
    """What the network says when it is used by hand."""
    with torch.no_grad():
        return model(torch.from_numpy(pixels)[:, None].float() / 255).softmax(1)


def test_predictions_are_those_of_the_network(client: TestClient, register: Register) -> None:
    model, pixels = make_model(), random_pixels(5)
    register("tiny", model)
    sent = files(*((f"{index}.png", png(picture)) for index, picture in enumerate(pixels)))
    answer = client.post("/classify?model=tiny&top_k=3", files=sent).json()
    expected = probabilities(model, pixels)
    assert answer["model"] == "tiny@1"
    for index, prediction in enumerate(answer["predictions"]):
        best = expected[index].argsort(descending=True)[:3].tolist()
        assert (prediction["index"], prediction["filename"]) == (index, f"{index}.png")
        assert [entry["class_index"] for entry in prediction["top_k"]] == best
        assert prediction["label"] == f"class {best[0]}"
        assert prediction["probability"] == pytest.approx(expected[index, best[0]].item(), abs=1e-6)
        assert prediction["adversarial"] is None
        assert prediction["error"] is None


def test_json_and_multipart_say_the_same(client: TestClient, register: Register) -> None:
    register("tiny", make_model())
    data = png(random_pixels(1)[0])
    form = client.post("/classify?model=tiny", files=files(("a.png", data))).json()
    body = {"images": [{"base64": base64.b64encode(data).decode(), "filename": "a.png"}]}
    assert client.post("/classify?model=tiny", json=body).json() == form


def test_a_requests_images_share_one_forward_pass(client: TestClient, register: Register) -> None:
    register("tiny", make_model())
    client.post("/classify?model=tiny", files=files(("warm.png", png(random_pixels(1)[0]))))
    served = next(iter(resources_of(client).engine._served.values()))
    sizes: list[int] = []
    served.model.register_forward_hook(lambda module, given, answer: sizes.append(len(answer)))
    sent = files(*((str(index), png(picture)) for index, picture in enumerate(random_pixels(20))))
    assert client.post("/classify?model=tiny", files=sent).status_code == 200
    assert sizes == [20]


def test_features_are_those_of_the_backbone(client: TestClient, register: Register) -> None:
    pixels = random_pixels(2)
    for name, model in (("coder", make_model(kind="encoder")), ("tiny", make_model())):
        register(name, model)
        answer = client.post(f"/embed?model={name}", files=files(*((name, png(picture)) for picture in pixels))).json()
        with torch.no_grad():
            expected = model.features(torch.from_numpy(pixels)[:, None].float() / 255)
        found = torch.tensor([entry["features"] for entry in answer["embeddings"]])
        assert torch.allclose(found, expected, atol=1e-6)


def test_bad_images_do_not_spoil_the_good_one(client: TestClient, register: Register) -> None:
    model, pixels = make_model(), random_pixels(1)
    register("tiny", model)
    whole = png(random_pixels(1, seed=1)[0])
    sent = files(
        ("cut.png", whole[: len(whole) // 2]),
        ("good.png", png(pixels[0])),
        ("bomb.png", bomb(20_000, 20_000)),
        ("notes.png", b"just text"),
        ("empty.png", b""),
    )
    answer = client.post("/classify?model=tiny", files=sent)
    assert answer.status_code == 200
    entries = answer.json()["predictions"]
    assert entries[1]["label"] == f"class {probabilities(model, pixels).argmax().item()}"
    for index, says in ((0, "decoded"), (2, "pixels are accepted"), (3, "not an image file"), (4, "empty")):
        assert says in entries[index]["error"]["detail"]
        assert (entries[index]["label"], entries[index]["error"]["status"]) == (None, 422)
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("data", [b"just text", bomb(20_000, 20_000), b""], ids=["text", "bomb", "empty"])
def test_all_bad_is_an_error(client: TestClient, register: Register, data: bytes) -> None:
    register("tiny", make_model())
    assert_problem(client.post("/classify?model=tiny", files=files(("a", data), ("b", data))), 422, pointer="/images/1")


def test_what_is_no_list_of_images_is_refused(client: TestClient, register: Register) -> None:
    register("tiny", make_model())
    url = "/classify?model=tiny"
    assert_problem(client.post(url, json={"images": [{"base64": "?"}]}), 422, says="base64", pointer="/images/0")
    assert_problem(client.post(url, json={"images": [{"base46": ""}]}), 422, pointer="/images/0/base46")
    assert_problem(client.post(url, json={"images": []}), 422, pointer="/images")
    assert_problem(client.post(url, files=[("image", b"")]), 422, says="images", pointer="/image")
    assert_problem(client.post(url, data={"images": "text"}), 415)
    assert_problem(client.post(url), 415, says="multipart")
    assert_problem(client.post(url, content=b"{", headers={"content-type": "application/json"}), 400)
    broken = {"content-type": "multipart/form-data; boundary=x"}
    assert_problem(client.post(url, content=b"--y\r\n", headers=broken), 400)
    assert_problem(client.post(f"{url}&top_k=0", files=files(("a", b""))), 422, pointer="/top_k")


def test_a_media_type_is_the_same_in_capitals(client: TestClient, register: Register) -> None:
    register("tiny", make_model())
    request = client.build_request("POST", "/classify?model=tiny", files=files(("a", png(random_pixels(1)[0]))))
    request.headers["content-type"] = request.headers["content-type"].replace(
        "multipart/form-data", "Multipart/Form-Data"
    )
    assert client.send(request).status_code == 200


def test_a_large_body_or_answer_holds_no_other_request_up(
    client: TestClient, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever looks through it, or writes it, does so outside the event loop."""
    outside: dict[str, bool] = {}

    def watched(module: Any, name: str) -> None:
        function = getattr(module, name)

        def watching(*args: Any, **more: Any) -> Any:
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            outside[name] = True
            return function(*args, **more)

        monkeypatch.setattr(module, name, watching)

    register("tiny", make_model())
    watched(requests, "parse_json")
    watched(inference, "_encoded")
    watched(inference.base64, "b64decode")
    watched(answers, "ClassScore")
    watched(answers, "Embedding")
    watched(BaseModel, "model_dump_json")
    body = {"images": [{"base64": base64.b64encode(png(random_pixels(1)[0])).decode()}]}
    for path, model in (("/classify", Classification), ("/embed", Embeddings)):
        answer = client.post(f"{path}?model=tiny", json=body)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.content == TypeAdapter(model).dump_json(model.model_validate_json(answer.content))
    assert outside.keys() == {"parse_json", "_encoded", "b64decode", "ClassScore", "Embedding", "model_dump_json"}


def test_models_that_cannot_answer_say_why(client: TestClient, register: Register) -> None:
    register("coder", make_model(kind="encoder"))
    sent = files(("a.png", png(random_pixels(1)[0])))
    assert_problem(client.post("/classify?model=coder", files=sent), 409, says="POST /jobs/probe")
    assert_problem(client.post("/classify?model=none", files=sent), 404, says="registered: coder")
    assert_problem(client.post("/classify", files=sent), 404, says="PUT /models/")
    assert_problem(client.post("/classify?model=a@b@c", files=sent), 422, pointer="/model")


def test_damaged_weights_are_never_served(client: TestClient, register: Register, settings: Settings) -> None:
    register("tiny", make_model())
    version = client.get("/models/tiny/versions/1").json()
    path = settings.home / "storage" / version["sha256"][:2] / version["sha256"]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    sent = files(("a.png", png(random_pixels(1)[0])))
    refused = client.post("/classify?model=tiny", files=sent)
    assert_problem(refused, 503, says="damaged")
    assert int(refused.headers["retry-after"]) >= 1


def test_production_follows_its_alias_and_must_be_one_model(client: TestClient, register: Register) -> None:
    sent = files(("a.png", png(random_pixels(1)[0])))
    register("a", make_model(seed=1))
    register("a", make_model(seed=2))
    register("b", make_model(seed=3))
    for version in (2, 1):
        assert client.put("/models/a/aliases/production", json={"version": version}).status_code == 200
        assert client.post("/classify", files=sent).json()["model"] == f"a@{version}"
    client.put("/models/b/aliases/production", json={"version": 1})
    assert_problem(client.post("/classify", files=sent), 409, says="a, b")
    assert client.post("/classify?model=b@production", files=sent).json()["model"] == "b@1"


def test_a_swap_drops_and_mixes_no_request(client: TestClient, register: Register) -> None:
    pixels = random_pixels(1)
    models = {f"tiny@{seed}": make_model(seed=seed) for seed in (1, 2)}
    for model in models.values():
        register("tiny", model)
    client.put("/models/tiny/aliases/production", json={"version": 1})
    stop = threading.Event()
    answers: list[Any] = []

    def ask() -> None:
        while not stop.is_set():
            answers.append(client.post("/classify", files=files(("a.png", png(pixels[0])))))

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        for turn in range(10):
            client.put("/models/tiny/aliases/production", json={"version": 1 + turn % 2})
        stop.set()
        for asked in asking:
            asked.result()
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        body = answer.json()
        expected = probabilities(models[body["model"]], pixels).max().item()
        assert body["predictions"][0]["probability"] == pytest.approx(expected, abs=1e-6)


@pytest.fixture
def narrow(settings: Settings) -> Iterator[TestClient]:
    limits = {"queue_max_images": 4, "image_max_count": 3, "image_max_bytes": 2000}
    with TestClient(create_app(settings.model_copy(update=limits)), HERE, raise_server_exceptions=False) as client:
        yield client


def test_over_capacity_is_said_at_once(narrow: TestClient, register: Register) -> None:
    register("tiny", make_model())
    sent = files(*((name, png(random_pixels(1)[0])) for name in "abc"))
    with resources_of(narrow).engine.batcher.admit(2):
        refused = narrow.post("/classify?model=tiny", files=sent)
        assert_problem(refused, 429, says="the queue has 4 places, and 2 are taken")
        assert int(refused.headers["retry-after"]) >= 1
    assert narrow.post("/classify?model=tiny", files=sent).status_code == 200


def test_images_are_limited_in_number_and_bytes(narrow: TestClient, register: Register) -> None:
    register("tiny", make_model())
    small, heavy = png(random_pixels(1)[0]), png(np.zeros((8, 8), np.uint8)) + b"\0" * 2000
    encoded = {"base64": base64.b64encode(small).decode()}
    assert_problem(narrow.post("/classify?model=tiny", files=files(*[("a", small)] * 4)), 413, says="3 images")
    assert_problem(narrow.post("/classify?model=tiny", json={"images": [encoded] * 4}), 413, says="at most 3")
    mixed = narrow.post("/classify?model=tiny", files=files(("a", small), ("b", heavy))).json()["predictions"]
    assert mixed[0]["error"] is None
    assert "at most 2000" in mixed[1]["error"]["detail"]


def test_large_images_are_fewer_in_one_request(narrow: TestClient, register: Register) -> None:
    register("wide", make_model(shape=(3, 224, 448)))
    small = png(random_pixels(1)[0])
    assert narrow.post("/classify?model=wide", files=files(*[("a", small)] * 2)).status_code == 200
    refused = narrow.post("/classify?model=wide", files=files(*[("a", small)] * 3))
    assert_problem(refused, 413, says="makes 3 × 224 × 448 values of each, and of that size at most 2 are accepted")


def test_one_image_is_always_taken(settings: Settings, register: Register) -> None:
    register("huge", make_model(shape=(1, 512, 512)))
    limits = {"queue_max_images": 1, "image_max_count": 1, "batch_max_images": 1}
    with TestClient(create_app(settings.model_copy(update=limits)), HERE, raise_server_exceptions=False) as client:
        answer = client.post("/classify?model=huge", files=files(("a", png(random_pixels(1)[0]))))
    assert answer.status_code == 200
