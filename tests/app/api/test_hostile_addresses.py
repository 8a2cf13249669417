"""Paths, queries, forms and answers that were made to do harm."""

from __future__ import annotations

import base64
import json
from typing import Any

import torch
from fastapi.testclient import TestClient
from safetensors.torch import load, save

from app.records.session import Database
from app.services.paging import make_cursor
from app.settings import Settings
from models.checkpoints import save_model
from tests.app.api.conftest import Register, assert_problem, make_model, png, random_pixels
from tests.app.api.test_dataset_routes import folder_zip
from tests.app.api.test_job_routes import change, submit

PLACES = (
    "/models/{}",
    "/models/{}/versions/1",
    "/models/{}/versions/1/weights",
    "/datasets/{}",
    "/jobs/{}",
    "/jobs/{}/metrics",
    "/jobs/{}/events",
    "/jobs/{}/examples/0/clean.png",
    "/backbones/{}",
    "/static/{}",
)
NAMES = (
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/secret.key",
    "..%5c..%5cwindows",
    "%252e%252e%252fsecret.key",
    "%00",
    "a%00b",
    "%0d%0aX-Evil:%201",
    "%ff%fe",
    "%ed%a0%80",
    "'%20OR%201=1--",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "a" * 5000,
    "~root",
    "C:%5csecret.key",
)


def test_no_name_is_a_path(client: TestClient, settings: Settings) -> None:
    (settings.home / "secret.key").write_text("top secret")
    for url in (place.format(name) for place in PLACES for name in NAMES):
        answer = client.get(url)
        assert answer.status_code in (404, 422), url
        assert_problem(answer, answer.status_code)
        assert "top secret" not in answer.text and "root:" not in answer.text, url
        assert "x-evil" not in answer.headers, url
        assert len(answer.content) < 6000, url


def test_no_nul_reaches_the_database(client: TestClient) -> None:
    """PostgreSQL refuses it as text."""
    for place in PLACES:
        if place.startswith(("/models", "/datasets", "/jobs")):
            assert_problem(client.get(place.format("a%00b")), 422)


def forged(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


QUERIES = (
    *(f"/{what}?cursor={cursor}" for what in ("jobs", "models", "datasets") for cursor in (
        "x", "%00", "%F0%9F%92%A9", "a" * 501, forged("{}"), forged("[1]"), forged("[]"), forged('["a", "b"]'),
        forged('["\\u0000"]'), forged("[" * 200), forged("9" * 300), forged("NaN"), make_cursor("a\0b"),
        forged('["\\ud800"]'),
    )),
    *(f"/jobs?limit={limit}" for limit in ("0", "-1", "201", "1e2", "1.5", "", "%00", "9" * 100, "0x10", "١.٢", "NaN")),
    *(f"/jobs?label={label}" for label in ("a", ":b", "a:%00", "a" * 602, "a:" + "b" * 601)),
    "/jobs?" + "&".join(["label=a:b"] * 21),
    "/jobs?kind=evil",
    "/jobs?status=%00",
    "/compare",
    "/compare?jobs=",
    "/compare?jobs=%00",
    "/compare?jobs=" + "a," * 300,
    "/compare?jobs=a&format=html",
    "/compare?jobs=a&jobs=b",
)  # fmt: skip


def test_queries_of_nonsense_are_refused(client: TestClient) -> None:
    for query in QUERIES:
        assert assert_problem(client.get(query), 422)["errors"], query


def test_a_parameter_that_is_no_list_comes_once(client: TestClient) -> None:
    for name, value in (("kind", "train"), ("limit", "5"), ("status", "queued")):
        assert_problem(client.get(f"/jobs?{name}={value}&{name}={value}"), 422, says="twice", pointer=f"/{name}")
    assert_problem(client.post("/classify?model=a&model=b"), 422, says="twice", pointer="/model")
    assert client.get("/jobs?label=a:b&label=c:d").status_code == 200


def test_a_forged_cursor_is_text_and_no_sql(client: TestClient) -> None:
    submit(client)
    for text in ("' OR 1=1 --", "'; DROP TABLE jobs; --", "\U0010ffff"):
        assert client.get(f"/jobs?cursor={make_cursor(text)}").status_code == 200
    assert len(client.get("/jobs").json()["items"]) == 1


def test_points_have_bounds(client: TestClient) -> None:
    job_id = submit(client)
    for points in ("0", "-1", "100001", "9" * 30, "NaN"):
        assert_problem(client.get(f"/jobs/{job_id}/metrics?points={points}"), 422, pointer="/points")


def test_the_last_event_may_be_anything(client: TestClient, database: Database) -> None:
    job_id = submit(client)
    change(database, job_id, status="succeeded")
    for seen in ("9" * 100, "-1", "1e9", "\xff", "abc-cancelled", "0x10", "1-2-3", ""):
        answer = client.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": seen.encode("latin-1")})
        assert answer.status_code == 200 and "event: status" in answer.text, seen
    assert_problem(client.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": "9" * 101}), 422)


def test_other_methods_are_refused_and_not_remembered(client: TestClient) -> None:
    for method in ("HEAD", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "JEFF", "A" * 3000):
        refused = client.request(method, "/jobs")
        assert refused.status_code == 405 and refused.headers["allow"] == "GET", method
        assert len(refused.content) < 6000
    remembered = client.get("/metrics").text
    assert 'method="PATCH"' in remembered
    assert "PROPFIND" not in remembered and "JEFF" not in remembered and "AAA" not in remembered


def test_every_answer_forbids_sniffing_and_frames(client: TestClient) -> None:
    paths = ("/jobs", "/jobs/none", "/nothing", "/", "/login", "/docs", "/static/page.css", "/openapi.json", "/metrics")
    for path in (*paths, "/healthz"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert headers["referrer-policy"] == "same-origin", path


def test_a_form_has_its_own_fields_and_each_once(client: TestClient) -> None:
    data = folder_zip()
    file = {"file": ("a.zip", data)}
    assert_problem(client.post("/datasets", data={"name": ["a", "b"]}, files=file), 422, pointer="/name")
    assert_problem(client.post("/datasets", data={"name": "a", "nmae": "b"}, files=file), 422, pointer="/nmae")
    twice = [("file", ("a.zip", data)), ("file", ("b.zip", data))]
    assert_problem(client.post("/datasets", data={"name": "a"}, files=twice), 422, pointer="/file")
    assert_problem(client.post("/datasets", data={"name": "a", "x" * 1000: "b"}, files=file), 422)
    assert [item["kind"] for item in client.get("/datasets").json()["items"]].count("upload") == 0


def test_a_files_name_is_given_back_and_no_path(client: TestClient, register: Register) -> None:
    register("tiny", make_model())
    picture = base64.b64encode(png(random_pixels(1)[0])).decode()
    for filename in ("../../evil.png", "/etc/passwd", "C:\\evil.png", "a\u202egnp.exe", "<script>", "é"):
        body = {"images": [{"base64": picture, "filename": filename}]}
        answer = client.post("/classify?model=tiny", json=body)
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["predictions"][0]["filename"] == filename
        created = client.post("/datasets", data={"name": "mine"}, files={"file": (filename, folder_zip())})
        assert created.status_code == 201


def test_a_files_long_name_is_refused(client: TestClient, register: Register) -> None:
    register("tiny", make_model())
    good = png(random_pixels(1)[0])
    answer = client.post("/classify?model=tiny", files=[("images", ("a" * 501, good)), ("images", ("b", good))]).json()
    assert answer["predictions"][0]["error"] and answer["predictions"][1]["error"] is None
    assert len(answer["predictions"][0]["filename"]) == 500
    assert_problem(client.post("/classify?model=tiny", files={"images": ("a" * 1_000_000, good)}), 400)


def huge_weights(settings: Settings) -> bytes:
    """Finite weights whose logits are not."""
    save_model(settings.home / "weights", make_model())
    tensors = load((settings.home / "weights").read_bytes())
    return save({name: torch.full_like(one, 3e38) if one.is_floating_point() else one for name, one in tensors.items()})


def test_a_model_that_computes_infinity_is_told_about(client: TestClient, settings: Settings) -> None:
    card = {"card": json.dumps(make_model().card.model_dump(mode="json"))}
    created = client.post("/models/huge/versions", files={"weights": huge_weights(settings)}, data=card)
    assert created.status_code == 201, created.text
    for route in ("/classify", "/embed"):
        picture: Any = {"images": ("a.png", png(random_pixels(1)[0]))}
        assert_problem(client.post(f"{route}?model=huge", files=picture), 422, says="NaN or infinity")


def test_a_card_of_nonsense_is_refused_in_few_words(client: TestClient, settings: Settings) -> None:
    for card in ("[" * 100_000, "{}", '{"a": NaN}', json.dumps({f"k{n}": 1 for n in range(50_000)})):
        refused = client.post("/models/m/versions", files={"weights": huge_weights(settings)}, data={"card": card})
        assert len(refused.content) < 20_000
        assert all(error["pointer"].startswith("/card") for error in assert_problem(refused, 422)["errors"])
        assert "the body" not in refused.text


def test_text_is_no_file(client: TestClient) -> None:
    refused = client.post("/models/m/versions", data={"weights": "text"})
    assert assert_problem(refused, 422, pointer="/weights")["detail"] == "/weights: send a file"
