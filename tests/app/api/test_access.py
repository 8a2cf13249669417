"""Who may do what over HTTP: tokens, scopes, other machines, foreign pages, and the login."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app import security
from app.api.access import COOKIE
from app.main import create_app
from app.records import ApiToken, utc_now
from app.records.session import Database
from app.services import tokens
from app.settings import Settings
from tests.app.api.conftest import HERE, Issue, assert_problem, bearer, make_model
from tests.app.api.test_submit import PRETRAIN

OPEN = ("/healthz", "/readyz", "/version", "/login", "/docs", "/openapi.json", "/static/page.css")


@pytest.fixture
def from_afar(settings: Settings) -> Iterator[TestClient]:
    """A client on another machine."""
    app = create_app(settings)
    with TestClient(app, HERE, raise_server_exceptions=False, client=("192.0.2.7", 4711)) as client:
        yield client


def every_operation(client: TestClient) -> list[tuple[str, str]]:
    found = []
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        found += [(method.upper(), path) for method in operations]
    return found


def test_without_tokens_this_machine_may_do_everything_and_another_nothing(
    client: TestClient, from_afar: TestClient
) -> None:
    assert client.get("/jobs").status_code == 200
    assert client.post("/jobs/pretrain", json=PRETRAIN).status_code == 202
    for method, path in every_operation(client):
        if path not in OPEN:
            assert_problem(from_afar.request(method, path), 403, says="clead token create")
    for path in OPEN:
        assert from_afar.get(path).status_code in {200, 503}


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:8000", "localhost.evil.example", "192.0.2.7", "[::2]:1"]
)
def test_under_another_name_this_machine_is_not_meant(client: TestClient, issue: Issue, name: str) -> None:
    """A foreign page whose name now resolves to 127.0.0.1 (DNS rebinding); a proxy that answers the world."""
    assert_problem(client.get("/jobs", headers={"Host": name}), 403, says="under its own name")
    _, token = issue()
    assert client.get("/jobs", headers={"Host": name} | bearer(token)).status_code == 200


@pytest.mark.parametrize("name", ["localhost", "localhost:8000", "clead.localhost", "127.0.0.1:1", "[::1]:8000", ""])
def test_its_own_names(client: TestClient, name: str) -> None:
    assert client.get("/jobs", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1"])
def test_loopback_is_this_machine(settings: Settings, host: str) -> None:
    with TestClient(create_app(settings), HERE, client=(host, 1)) as client:
        assert client.get("/jobs").status_code == 200


def test_once_there_is_a_token_every_operation_takes_one(client: TestClient, issue: Issue) -> None:
    token_id, token = issue()
    for method, path in every_operation(client):
        if path not in OPEN:
            answer = client.request(method, path)
            assert_problem(answer, 401, says="Authorization: Bearer")
            assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/jobs", headers=bearer(token)).status_code == 200
    # Also when none is good any more: a service that was closed does not open by itself.
    with_database = client.app.state.resources.database  # type: ignore[attr-defined]
    with with_database.writing() as session:
        tokens.revoke(session, token_id)
    assert_problem(client.get("/jobs"), 401)


NEEDED = {
    "classify": [("POST", "/classify"), ("GET", "/models"), ("GET", "/attacks"), ("GET", "/metrics")],
    "submit": [
        ("GET", "/jobs"),
        ("GET", "/compare?jobs=x"),
        ("POST", "/jobs/pretrain"),
        ("POST", "/evaluate"),
        ("POST", "/jobs/x/cancel"),
        ("GET", "/jobs/x/events"),
        ("POST", "/datasets"),
        ("POST", "/models/x/versions"),
    ],
    "admin": [
        ("PUT", "/models/x/aliases/production"),
        ("DELETE", "/models/x/aliases/production"),
        ("DELETE", "/models/x/versions/1"),
        ("DELETE", "/models/x"),
    ],
}


@pytest.mark.parametrize("held", security.SCOPES)
@pytest.mark.parametrize("needed", security.SCOPES)
def test_a_scope_opens_its_routes_and_no_others(
    client: TestClient, issue: Issue, held: security.Scope, needed: security.Scope
) -> None:
    _, token = issue(held)
    for method, path in NEEDED[needed]:
        answer = client.request(method, path, headers=bearer(token))
        if security.allows(held, needed):
            assert answer.status_code not in {401, 403}, (method, path, answer.text)
        else:
            assert_problem(answer, 403, says=f"scope {needed}")


def test_a_forbidden_request_changes_nothing(client: TestClient, issue: Issue, register: Any) -> None:
    register("mine", make_model())
    _, token = issue("submit")
    assert client.delete("/models/mine", headers=bearer(token)).status_code == 403
    assert client.get("/models/mine", headers=bearer(token)).status_code == 200


def test_unknown_mistyped_revoked_and_expired_tokens_get_one_answer(
    client: TestClient, issue: Issue, database: Database
) -> None:
    revoked_id, revoked = issue()
    _, expired = issue(lifetime=timedelta(seconds=-1))
    with database.writing() as session:
        tokens.revoke(session, revoked_id)
    bad = [revoked, expired, security.new_token(), revoked[:-1] + "?", "x", "é", "a" * 10_000]
    answers = {client.get("/jobs", headers={"Authorization": f"Bearer {token}".encode()}).text for token in bad}
    assert len(answers) == 1
    assert_problem(client.get("/jobs", headers=bearer(revoked)), 401, says="revoked or has expired")


@pytest.mark.parametrize("header", ["Basic dXNlcjpwYXNz", "Bearer", "bearer ", "Token x", ""])
def test_other_kinds_of_authorization_are_no_token(client: TestClient, issue: Issue, header: str) -> None:
    issue()
    assert_problem(client.get("/jobs", headers={"Authorization": header}), 401)


def test_a_token_never_lies_in_the_database_and_its_last_use_does(
    client: TestClient, issue: Issue, database: Database, settings: Settings
) -> None:
    token_id, token = issue()
    for _ in range(3):
        client.get("/jobs", headers=bearer(token))
    with database.session() as session:
        record = session.get_one(ApiToken, token_id)
        assert record.used_at is not None and utc_now() - record.used_at < timedelta(minutes=1)
        assert record.digest == security.digest(token, security.secret_key(settings))
    for file in settings.home.glob("clead.db*"):
        assert token.encode() not in file.read_bytes()


def test_another_key_makes_old_tokens_worthless(settings: Settings, issue: Issue) -> None:
    _, token = issue()
    with TestClient(
        create_app(settings.model_copy(update={"secret_key": type(settings.secret_key)("other")})),
        HERE,
    ) as client:
        assert client.get("/jobs", headers=bearer(token)).status_code == 401


FOREIGN = (
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://localhost:81"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},  # sent on by another site
)


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_foreign_page_cannot_use_this_machines_right_or_a_login(
    client: TestClient, issue: Issue, headers: dict[str, str]
) -> None:
    assert_problem(client.post("/jobs/pretrain", json=PRETRAIN, headers=headers), 403, says="another site")
    _, token = issue()
    client.cookies.set(COOKIE, token)
    assert_problem(client.post("/jobs/pretrain", json=PRETRAIN, headers=headers), 403, says="another site")
    for path in ("/login", "/logout"):
        assert_problem(client.post(path, data={"token": token}, headers=headers), 403)
    client.cookies.clear()
    # A page cannot make a browser send this header, so whoever sends it knows the token.
    assert client.post("/jobs/pretrain", json=PRETRAIN, headers=headers | bearer(token)).status_code == 202


@pytest.mark.parametrize(
    "own",
    [
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://localhost"},
        {"Origin": "https://behind-a-proxy.example", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},  # a form of a page with `Referrer-Policy: no-referrer`
    ],
)
def test_the_services_own_page_may(client: TestClient, issue: Issue, own: dict[str, str]) -> None:
    _, token = issue()
    client.cookies.set(COOKIE, token)
    assert client.post("/jobs/pretrain", json=PRETRAIN, headers=own).status_code == 202


def test_a_login_keeps_the_token_where_no_script_and_no_other_site_reaches_it(client: TestClient, issue: Issue) -> None:
    _, token = issue("submit")
    assert client.get("/", follow_redirects=False).headers["location"] == "/login"
    page = client.get("/")
    assert "API token" in page.text and page.headers["content-security-policy"].startswith("default-src 'none'")
    answer = client.post("/login", data={"token": f" {token}\n"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    page = client.get("/")
    assert "Sign out" in page.text and token not in page.text
    assert client.get("/jobs").status_code == 200
    client.post("/logout")
    assert client.get("/jobs").status_code == 401


def test_over_https_the_cookie_stays_on_https(settings: Settings, issue: Issue) -> None:
    _, token = issue()
    with TestClient(create_app(settings), base_url="https://localhost") as client:
        answer = client.post("/login", data={"token": token}, follow_redirects=False)
    assert "secure" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize("token", ["", "x", "<script>alert(1)</script>"])
def test_a_wrong_login_says_so_and_sets_nothing(client: TestClient, issue: Issue, token: str) -> None:
    issue()
    answer = client.post("/login", data={"token": token}, follow_redirects=False)
    assert answer.status_code == 401
    assert "revoked or has expired" in answer.text and "<script>alert" not in answer.text
    assert "set-cookie" not in answer.headers


def test_a_token_that_may_not_see_jobs_gets_no_page(client: TestClient, issue: Issue) -> None:
    _, token = issue("classify")
    answer = client.post("/login", data={"token": token}, follow_redirects=False)
    assert answer.status_code == 401 and "scope submit" in answer.text


def test_the_document_names_the_scheme_and_the_answers(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for method, path in every_operation(client):
        operation = document["paths"][path][method.lower()]
        if path in OPEN:
            assert "security" not in operation
        else:
            assert operation["security"] == [{"HTTPBearer": []}]
            assert {"401", "403"} <= operation["responses"].keys()
