"""Secrets in text: what is masked, what is left alone."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from app.redaction import Redactor, url_password
from app.security import new_token

PASSWORD = "h/nter@2 ü"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql+psycopg://clead:hunter2@db:5432/clead",
        "redis://:hunter2@redis:6379/0",
        "cannot connect to 'rediss://default:hunter2@redis/0'; giving up",
        "s3://key:hunter2@bucket/folder",
        "redis://:hunter2@more@host/0",
        "redis://:a/hunter2/b@host/0",
        "redis://:12345hunter2@host/0",
        f"redis://:{quote('a@b/hunter2', safe='')}@host/0",
        "password=hunter2 host=db",
        "sslpassword='hunter2'",
        "{'user': 'me', 'password': 'hunter2'}",
        '{"secret_key": "hunter2"}',
        "Authorization: Bearer hunter2hunter2",
        "authorization: Basic aHVudGVyMjpodW50ZXIy hunter2",
        "Cookie: other=1; clead_token=hunter2",
        "[(b'host', b'x'), (b'cookie', b'clead_token=hunter2'), (b'accept', b'*/*')]",
        "headers={'authorization': 'Token hunter2'}",
        "/login?token=hunter2&next=1",
    ],
)
def test_a_secret_is_masked_where_its_surroundings_give_it_away(text: str) -> None:
    redacted = Redactor()(text)
    assert "hunter2" not in redacted and "aHVudGVy" not in redacted
    assert "***" in redacted


def test_tokens_are_masked_wherever_they_stand() -> None:
    token = new_token()
    for text in (token, f"/jobs/{token}", f"x{token}.", f"x={token}&y", token[:-3]):
        assert token[10:25] not in Redactor()(text)


@pytest.mark.parametrize(
    "text",
    [
        "GET http://127.0.0.1:8000/models/robust@production 200",
        "http://127.0.0.1:8000, mail me@example.org",
        "http://[::1]:8000/models/robust@2",
        "job 01a2107edd2d708c991b225e9ebcc87a: attempt 2 lost its lease",
        "clead_http_requests_total and clead_inference_forward_seconds_bucket",
        "postgresql+psycopg://clead@db/clead",
        "basic training with a bearer of news",
        "the token is not known here",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert Redactor()(text) == text


def test_known_secrets_are_masked_as_they_are_and_as_they_are_written_in_a_url() -> None:
    written = quote(PASSWORD, safe="")
    assert url_password(f"redis://:{written}@host/0") == written
    redact = Redactor([written, "db"])
    assert redact(f"FATAL: no entry for {PASSWORD!r}, {written} in db") == "FATAL: no entry for '***', *** in db"


def test_a_url_without_a_password_has_none() -> None:
    for url in ("sqlite:////x/clead.db", "redis://redis:6379/0", "postgresql+psycopg://clead@db/clead", "file:///x@y"):
        assert url_password(url) is None


def test_hostile_text_costs_little() -> None:
    """Work grows with the length and not with its square, which the test runner would put an end to."""
    redact = Redactor(["some-secret"])
    for part in ("://a:", "clead_", "cookie: ", "bearer ", "password=", "'password': '", "a" * 50 + "://", "a"):
        redact(part * (200_000 // len(part)))
