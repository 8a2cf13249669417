"""Health, metrics, the OpenAPI document, and the errors that every route shares."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from app.main import create_app
from app.queue import QUEUES, broker_folder
from app.records.session import Database
from app.services import models, workers
from app.serving.engine import MODELS_IN_MEMORY
from app.settings import Settings
from app.storage import Storage
from migrations import move
from tests.app.api.conftest import HERE, Issue, Register, assert_problem, make_model, png, random_pixels, resources_of
from tests.app.api.test_dataset_routes import folder_zip, upload
from tests.app.api.test_submit import PRETRAIN
from tests.conftest import S3_ACCOUNT
from tests.servers import free_port


def test_ready_names_what_is_missing(client: TestClient, database: Database, register: Register) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    missing = client.get("/readyz")
    assert missing.status_code == 503
    assert missing.json()["detail"].startswith("worker: none seen lately for the queue train, evaluate")
    with database.writing() as session:
        workers.beat(session, "w", host="h", pid=1, queues=QUEUES, job_id=None)
    register("tiny", make_model())
    client.put("/models/tiny/aliases/production", json={"version": 1})
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert ready.json()["checks"]["models"]["detail"] == "loaded: tiny@1"


def test_a_monitor_may_ask_by_head(client: TestClient) -> None:
    for path, status in {"/healthz": 200, "/readyz": 503, "/version": 200, "/": 200}.items():
        answer = client.head(path)
        assert (answer.status_code, answer.headers["content-type"]) == (
            status,
            client.get(path).headers["content-type"],
        )


def test_more_in_production_than_fit_into_memory_are_loaded_once(
    client: TestClient, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = resources_of(client)
    names = [f"tiny-{number}" for number in range(MODELS_IN_MEMORY + 1)]
    for number, name in enumerate(names):
        register(name, make_model(seed=number))
        with opened.database.writing() as session:
            models.set_alias(session, name, alias="production", version=1)
    loaded = ", ".join(f"{name}@1" for name in names)
    assert client.get("/readyz").json()["checks"]["models"] == {"ok": True, "detail": f"loaded: {loaded}"}
    in_memory = opened.engine.loaded
    assert in_memory == [f"{name}@1" for name in names[1:]]
    monkeypatch.setattr(Storage, "fetch", None)  # nothing is read again
    assert client.get("/readyz").json()["checks"]["models"] == {"ok": True, "detail": f"loaded: {loaded}"}
    assert opened.engine.loaded == in_memory


@pytest.mark.parametrize(
    ("method", "url", "says"),
    [
        ("GET", "/jobs?limit=2&limti=3", "'limti': unknown query parameter; known: cursor, kind, label, limit, status"),
        ("GET", "/jobs/no-such-job/events?limti=3", "takes no query parameters"),
        ("GET", "/methods?limti", "takes no query parameters"),
        ("POST", "/jobs/pretrain?limti=3", "takes no query parameters"),
        ("POST", "/classify?limti=3", "known: model, top_k"),
        ("DELETE", "/models/tiny?limti=3", "takes no query parameters"),
    ],
)
def test_a_query_parameter_that_a_route_does_not_take_is_refused(
    client: TestClient, method: str, url: str, says: str
) -> None:
    assert_problem(client.request(method, url), 422, says=says, pointer="/limti")


def test_known_query_parameters_are_taken_and_probes_may_add_their_own(client: TestClient) -> None:
    for url in (
        "/jobs?limit=2&label=a:b&label=c:d&status=queued",
        "/healthz?x=1",
        "/metrics?x=1",
        "/?x=1",
        "/docs?x=1",
    ):
        assert client.get(url).status_code == 200, url


def test_who_may_not_ask_is_told_that_first(client: TestClient, issue: Issue) -> None:
    issue()
    assert_problem(client.get("/jobs?limti=3"), 401)


def lose_broker(client: TestClient, register: Register) -> str:
    shutil.rmtree(broker_folder(resources_of(client).settings))
    return "broker: its folder is missing"


def lose_weights(client: TestClient, register: Register) -> str:
    register("tiny", make_model())
    with resources_of(client).database.writing() as session:
        models.set_alias(session, "tiny", alias="production", version=1)
    shutil.rmtree(resources_of(client).settings.home / "storage")
    return "models: the weights of tiny@1 cannot be loaded"


def lose_tables(client: TestClient, register: Register) -> str:
    for file in resources_of(client).settings.home.glob("clead.db*"):
        file.unlink()
    resources_of(client).database.engine.dispose()
    return "database: does not answer or has no tables"


def age_schema(client: TestClient, register: Register) -> str:
    move(resources_of(client).settings, "0003")
    return "database: its schema is an older version's"


@pytest.mark.parametrize("lose", [lose_broker, lose_weights, lose_tables, age_schema])
def test_each_thing_that_gets_lost_is_named(
    client: TestClient, database: Database, register: Register, lose: Callable[[TestClient, Register], str]
) -> None:
    with database.writing() as session:
        workers.beat(session, "w", host="h", pid=1, queues=QUEUES, job_id=None)
    assert client.get("/readyz").status_code == 200
    database.close()
    says = lose(client, register)
    answer = client.get("/readyz")
    assert answer.status_code == 503 and says in answer.json()["detail"]
    assert not answer.json()["checks"][says.partition(":")[0]]["ok"]


def test_servers_that_do_not_answer_are_named(settings: Settings) -> None:
    """A broker and a store on ports where nobody listens."""
    away = {
        "broker_url": f"redis://127.0.0.1:{free_port()}/0",
        "storage_url": f"webhdfs://127.0.0.1:{free_port()}/artifacts",
    }
    with TestClient(create_app(settings.model_copy(update=away)), HERE) as client:
        answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "broker: does not answer" in answer.json()["detail"]
    assert "storage: the storage does not answer (ConnectionError)" in answer.json()["detail"]


def test_without_tables_the_service_says_so(settings: Settings) -> None:
    empty = settings.model_copy(update={"database_url": "sqlite://"})
    with TestClient(create_app(empty), HERE, raise_server_exceptions=False) as client:
        assert client.get("/healthz").status_code == 200
        assert "clead migrate" in client.get("/readyz").json()["detail"]
        assert_problem(client.get("/jobs"), 503, says="database")


def test_a_storage_that_is_away_is_named_and_costs_a_503(
    settings: Settings, database: Database, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = register("tiny", make_model())
    for name, value in {**S3_ACCOUNT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}.items():
        monkeypatch.setenv(name, value)
    away = settings.model_copy(update={"storage_url": "s3://bucket/clead"})
    with TestClient(create_app(away), HERE, raise_server_exceptions=False) as client:
        assert (
            "storage: the storage does not answer (EndpointConnectionError)" in client.get("/readyz").json()["detail"]
        )
        for answer in (
            client.get("/models/tiny/versions/1/weights"),
            upload(client, folder_zip()),
            client.post(f"/classify?model={reference}", files={"images": png(random_pixels(1)[0])}),
        ):
            assert_problem(answer, 503, says="does not answer (EndpointConnectionError)")
        assert client.get("/datasets/mine").status_code == 404


def test_an_error_inside_is_answered_without_its_trace(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: Any, **named: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(resources_of(client).database, "session", fail)
    problem = assert_problem(client.get("/jobs"), 500)
    assert "secret" not in str(problem)


def test_metrics_count_requests_by_route_and_jobs_by_status(client: TestClient) -> None:
    client.post("/jobs/pretrain", json=PRETRAIN)
    client.get("/jobs/one")
    client.get("/jobs/two")
    client.get("/wp-login.php")
    samples = [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    ]
    assert ("clead_jobs", {"kind": "pretrain", "status": "queued"}, 1.0) in samples
    requests = "clead_http_requests_total"
    assert (requests, {"method": "GET", "route": "/jobs/{job_id}", "status": "404"}, 2.0) in samples
    assert (requests, {"method": "unknown", "route": "unknown", "status": "404"}, 1.0) in samples


def test_what_is_not_there_and_what_is_not_possible(client: TestClient) -> None:
    assert_problem(client.get("/nothing"), 404, says="/nothing")
    refused = client.delete("/jobs")
    assert_problem(refused, 405, says="DELETE")
    assert refused.headers["allow"]
    assert_problem(client.get("/static/../main.py"), 404)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "not JSON"),
        (b'{"seed": NaN}', "NaN"),
        (b'{"seed": -Infinity}', "Infinity"),
        (b'{"seed": 1, "seed": 2}', "twice"),
        (b"[" * 200_000, "nests too deep"),
        (b'{"a":' * 200_000, "nests too deep"),
        (b'{"seed": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b'{"labels": {"a": "\\ud800"}}', "surrogate"),
        (b'{"labels": {"a": "\\u0000"}}', "NUL"),
        (b'{"a": "\xff"}', "not JSON"),
    ],
    ids=["cut", "nan", "infinity", "twice", "deep-list", "deep-object", "long", "surrogate", "nul", "bytes"],
)
def test_only_strict_json_is_read(client: TestClient, body: bytes, says: str) -> None:
    response = client.post("/jobs/pretrain", content=body, headers={"content-type": "application/json"})
    assert_problem(response, 400, says=says)


def test_bodies_are_bounded_by_their_length_and_while_they_arrive(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    assert_problem(client.post("/evaluate", content=b" " * 5_000_000, headers=headers), 413)
    chunks = (b" " * 100_000 for _ in range(100))
    assert_problem(client.post("/evaluate", content=chunks, headers=headers), 413)
    assert_problem(client.post("/evaluate", content=b"{}", headers={"content-type": "text/plain"}), 415)
    assert_problem(client.post("/evaluate"), 400, says="empty")


def schemas_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from schemas_in(item)


def test_the_openapi_document_is_whole(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for part in schemas_in(document):
        reference = part.get("$ref")
        if isinstance(reference, str):
            assert reference.removeprefix("#/components/schemas/") in schemas, reference
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"] and operation["description"], (method, path)
            for status, answer in operation["responses"].items():
                if status >= "400" and path != "/readyz":
                    assert list(answer["content"]) == ["application/problem+json"], (method, path, status)
            body = operation.get("requestBody", {"content": {}})
            assert ("507" in operation["responses"]) == ("multipart/form-data" in body["content"]), (method, path)
    for name, view in schemas.items():
        if name.endswith(("View", "Page", "Prediction", "Problem", "Embedding", "Progress")):
            assert all(field.get("description") for field in view["properties"].values()), name
    for path in ("/jobs/pretrain", "/jobs/probe", "/jobs/train", "/jobs/protocol", "/evaluate"):
        assert document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


def test_the_documentation_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs").text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert any("swagger-ui-bundle.js" in url for url in loaded) and "/openapi.json" in page and "//" not in page
    assert [client.get(url).status_code for url in loaded] == [200] * len(loaded)
    assert client.get("/redoc").status_code == 404


def test_methods_and_attacks_describe_their_parameters(client: TestClient) -> None:
    methods = {item["name"]: item for item in client.get("/methods").json()["items"]}
    assert {"clead", "standard", "pgd-at"} <= methods.keys()
    assert methods["clead"]["kind"] == "pretrain"
    assert methods["clead"]["parameters"]["properties"]["temperature"]["default"] == 0.1
    attacks = {item["name"]: item for item in client.get("/attacks").json()["items"]}
    assert {"fgsm", "pgd", "cw-linf", "cw-l2"} <= attacks.keys()
    assert attacks["pgd"]["parameters"]["properties"]["steps"]["maximum"]
    assert all(item["source"] and item["formula"] for item in attacks.values())
