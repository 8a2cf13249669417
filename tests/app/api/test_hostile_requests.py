"""Requests made to do harm, to a real server: each is refused in order, briefly, and leaves nothing behind."""

from __future__ import annotations

import copy
import gzip
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from app.settings import Settings
from migrations import upgrade
from tests.app.api.conftest import assert_problem
from tests.app.process import ApiProcess, api_process
from tests.fuzz.home import BODIES, MODEL, furnish
from tests.memory import MIB, at_most

SHORT = 20_000
JSON = {"Content-Type": "application/json"}
TRAIN = BODIES["POST /jobs/train"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiProcess]:
    settings = Settings(home=tmp_path_factory.mktemp("home"))
    upgrade(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEAD_UPLOAD_MAX_BYTES", str(4 * MIB))
        with api_process(settings) as running:
            furnish(settings, running.client, settings.home)
            yield running


@pytest.fixture
def client(server: ApiProcess) -> Iterator[httpx.Client]:
    """The client, and after the test a look whether the server lives and made no job."""
    before = server.client.get("/jobs?limit=200").json()["items"]
    yield server.client
    assert server.client.get("/healthz").status_code == 200
    assert server.client.get("/jobs?limit=200").json()["items"] == before


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a JSON value that is neither object nor array."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path
        return
    for key, item in items:
        yield from places(item, (*path, key))


def replaced(body: Any, path: tuple[Any, ...], new: Any) -> Any:
    changed = copy.deepcopy(body)
    inner = changed
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = new
    return changed


def found(body: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        body = body[step]
    return body


@pytest.mark.parametrize("operation", BODIES)
def test_a_megabyte_in_any_field_or_name_is_refused_in_few_words(client: httpx.Client, operation: str) -> None:
    url, body = operation.partition(" ")[2], BODIES[operation]
    long = "x" * 1_000_000
    bodies = [replaced(body, path, long) for path in places(body)]
    bodies += [{**body, long: 1}, {**body, "labels": {long: "a"}}, {**body, "labels": {"a": long}}]
    bodies += [{**body, "dataset": {**body["dataset"], long: 1}}]
    for sent in bodies:
        refused = client.post(url, json=sent)
        assert_problem(refused, 422)
        assert len(refused.content) < SHORT


@pytest.mark.parametrize("operation", BODIES)
def test_what_is_no_number_of_that_size_is_refused(client: httpx.Client, operation: str) -> None:
    url, body = operation.partition(" ")[2], BODIES[operation]
    numbers = [path for path in places(body) if type(found(body, path)) in (int, float)]
    assert numbers or operation == "POST /jobs/protocol"
    for path in numbers:
        for value in (True, "1", 2**70, -(2**70), 1e300):
            assert_problem(client.post(url, json=replaced(body, path, value)), 422)
        text = json.dumps(replaced(body, path, float("nan")))
        assert_problem(client.post(url, content=text, headers=JSON), 400)
        text = json.dumps(replaced(body, path, "?")).replace('"?"', "1e400")
        assert_problem(client.post(url, content=text, headers=JSON), 422)


def test_a_fraction_of_a_billion_digits_is_not_written_out(client: httpx.Client) -> None:
    for eps in ("1e999999999", "1/1e999999999", "1e-999999999/1e-999999999", "9" * 40, "nan", "inf/inf", "1/0"):
        body = {**BODIES["POST /evaluate"], "attacks": [{"name": "fgsm", "eps": eps}], "curve": None, "require": {}}
        assert_problem(client.post("/evaluate", json=body), 422, pointer="/attacks/0/eps")


def test_a_network_too_large_for_any_machine_is_refused(client: httpx.Client) -> None:
    for backbone in ({"width": 10**9}, {"blocks": [10**9]}, {"blocks": [1] * 5}, {"width": 1024, "blocks": [100] * 4}):
        assert_problem(client.post("/jobs/train", json={**TRAIN, "backbone": backbone}), 422)


GOOD = json.dumps(TRAIN).encode()
TEXTS: dict[str, tuple[bytes, int]] = {
    "deep arrays": (b"[" * 100_000 + b"]" * 100_000, 400),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400),
    "unclosed": (b"[" * 1_000_000, 400),
    "NaN": (b'{"epochs": NaN}', 400),
    "infinity": (b'{"epochs": -Infinity}', 400),
    "many digits": (b'{"epochs": ' + b"9" * 100_000 + b"}", 400),
    "a key twice": (b'{"method": "standard", "method": "pgd-at"}', 400),
    "a long key twice": (b'{"%b": 1, "%b": 2}' % (b"k" * 10**6, b"k" * 10**6), 400),
    "half a surrogate": (rb'{"labels": {"a": "\ud800"}}', 400),
    "NUL": (rb'{"labels": {"a": "\u0000"}}', 400),
    "control character": (b'{"labels": {"a": "\x01"}}', 400),
    "UTF-16": (json.dumps(TRAIN).encode("utf-16"), 400),
    "UTF-32": (json.dumps(TRAIN).encode("utf-32"), 400),
    "latin-1": ('{"labels": {"a": "é"}}'.encode("latin-1"), 400),
    "overlong UTF-8": (b'{"labels": {"a": "\xc0\xaf"}}', 400),
    "comment": (b"/* */" + GOOD, 400),
    "two values": (GOOD + GOOD, 400),
    "packed": (gzip.compress(GOOD), 400),
    "number": (b"1", 422),
    "text": (b'"x"', 422),
    "null": (b"null", 422),
    "array": (b"[]", 422),
    "many unknown fields": (json.dumps({**TRAIN, **{f"k{n}": n for n in range(100_000)}}).encode(), 400),
    "some unknown fields": (json.dumps({**TRAIN, **{f"k{n}": n for n in range(180)}}).encode(), 422),
    "many labels": (json.dumps({**TRAIN, "labels": {f"k{n}": n for n in range(100_000)}}).encode(), 400),
    "many attacks": (json.dumps({**BODIES["POST /evaluate"], "attacks": [{}] * 100_000}).encode(), 422),
}


@pytest.mark.parametrize(("content", "status"), TEXTS.values(), ids=TEXTS)
def test_json_that_is_none_or_too_much(client: httpx.Client, content: bytes, status: int) -> None:
    refused = client.post("/evaluate" if b"attacks" in content else "/jobs/train", content=content, headers=JSON)
    assert_problem(refused, status)
    assert len(refused.content) < SHORT


@pytest.mark.parametrize("charset", ["utf-16", "utf-7", "latin-1", "unicode_escape", "undefined", "punycode", '"a;b"'])
def test_text_in_another_charset_is_refused(client: httpx.Client, charset: str) -> None:
    """Python has codecs that turn harmless bytes into anything, and some that raise errors of their own."""
    for url, kind in (("/jobs/train", "application/json"), ("/datasets", "multipart/form-data; boundary=b")):
        assert_problem(client.post(url, content=GOOD, headers={"Content-Type": f"{kind}; charset={charset}"}), 415)
    kind = f"multipart/form-data; boundary=b; charset={charset}"
    form = b'--b\r\nContent-Disposition: form-data; name="images"; filename="\\ud800"\r\n\r\nx\r\n--b--\r\n'
    assert_problem(client.post(f"/classify?model={MODEL}", content=form, headers={"Content-Type": kind}), 415)


def test_packed_bodies_are_not_unpacked(client: httpx.Client) -> None:
    for coding in ("gzip", "deflate", "br", "zstd"):
        packed = client.post("/jobs/train", content=gzip.compress(GOOD), headers={**JSON, "Content-Encoding": coding})
        assert_problem(packed, 400)


KEYS: dict[str, tuple[list[bytes], int]] = {
    "two": ([b"a", b"b"], 400),
    "the same twice": ([b"a", b"a"], 400),
    "joined": ([b"a, b"], 422),
    "comma": ([b"a,b"], 422),
    "tab": ([b"a\tb"], 422),
    "space": ([b"a b"], 422),
    "latin-1": ([b"\xe9"], 422),
    "UTF-8": (["ключ".encode()], 422),
    "empty": ([b""], 422),
    "long": ([b"k" * 256], 422),
    "very long": ([b"k" * 50_000], 422),
}


@pytest.mark.parametrize(("keys", "status"), KEYS.values(), ids=KEYS)
def test_an_idempotency_key_is_one_plain_word(client: httpx.Client, keys: list[bytes], status: int) -> None:
    headers = [(b"Content-Type", b"application/json"), *((b"Idempotency-Key", key) for key in keys)]
    assert_problem(client.post("/jobs/train", content=GOOD, headers=headers), status)


def raw(server: ApiProcess, *lines: bytes, body: bytes = b"") -> bytes:
    """What the server says to bytes that no client library would send, until it closes the connection."""
    address = (server.client.base_url.host, server.client.base_url.port or 80)
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(b"\r\n".join([*lines, b"", b""]) + body)
        answer = b""
        with suppress(ConnectionResetError):  # it may close while there is more to send
            while data := connection.recv(65_536):
                answer += data
    return answer


POST = (b"POST /jobs/train HTTP/1.1", b"Host: localhost", b"Content-Type: application/json")
SIZE = str(len(GOOD)).encode()
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)
SMUGGLED = b"0\r\n\r\n" + b"\r\n".join([*POST, b"Content-Length: " + SIZE, b"", b""]) + GOOD
WIRE: dict[str, tuple[tuple[bytes, ...], bytes]] = {
    "length and chunks": ((b"Content-Length: 5", b"Transfer-Encoding: chunked"), SMUGGLED),
    "chunks and length": ((b"Transfer-Encoding: chunked", b"Content-Length: " + SIZE), CHUNKED),
    "two lengths": ((b"Content-Length: " + SIZE, b"Content-Length: 5"), GOOD),
    "negative length": ((b"Content-Length: -1",), GOOD),
    "length in words": ((b"Content-Length: many",), GOOD),
    "length with a sign": ((b"Content-Length: +" + SIZE,), GOOD),
    "unknown coding": ((b"Transfer-Encoding: xchunked",), CHUNKED),
    "chunked twice": ((b"Transfer-Encoding: chunked, chunked",), CHUNKED),
    "negative chunk": ((b"Transfer-Encoding: chunked",), b"-1\r\n" + GOOD),
    "huge chunk": ((b"Transfer-Encoding: chunked",), b"f" * 30 + b"\r\n" + GOOD),
    "key with CR": ((b"Idempotency-Key: a\rIdempotency-Key: b", b"Content-Length: " + SIZE), GOOD),
    "key with NUL": ((b"Idempotency-Key: a\0b", b"Content-Length: " + SIZE), GOOD),
    "folded key": ((b"Idempotency-Key: a", b" b", b"Content-Length: " + SIZE), GOOD),
    "space before the colon": ((b"Idempotency-Key : a", b"Content-Length: " + SIZE), GOOD),
    "no colon": ((b"Idempotency-Key", b"Content-Length: " + SIZE), GOOD),
    "endless header": ((b"X: " + b"x" * 200_000, b"Content-Length: " + SIZE), GOOD),
}


@pytest.mark.parametrize(("headers", "body"), WIRE.values(), ids=WIRE)
def test_ambiguous_bytes_make_no_request(
    server: ApiProcess, client: httpx.Client, headers: tuple[bytes, ...], body: bytes
) -> None:
    """Two readers of the same bytes must not see two requests; the fixture looks that none made a job."""
    answer = raw(server, *POST, *headers, body=body)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 422", b"HTTP/1.1 501")) or len(headers[0]) > 100_000, answer[
        :200
    ]
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert b"Traceback" not in answer


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        *((b"Host", value, 403) for value in (b"[", b"[::1", b"a:b:c", b"evil.example", b"localhost.evil.example")),
        *((b"Origin", value, 403) for value in (b"http://[", b"null", b"http://evil.example", b"\xff", b"")),
        *((b"Accept", value, 422) for value in (b"*/*;q=x", b"application/nothing", b"\xff" * 1000)),
        *((b"Range", value, 422) for value in (b"bytes=0-1", b"bytes=-99999999999999999999", b"lines=1")),
        *((b"Authorization", value, 401) for value in (b"Bearer \xff", b"Bearer " + b"x" * 10_000)),
        (b"Cookie", b"clead_token=\xff; " * 100, 422),
    ],
)
def test_headers_of_nonsense(server: ApiProcess, client: httpx.Client, name: bytes, value: bytes, status: int) -> None:
    host = () if name == b"Host" else (b"Host: localhost",)
    lines = (b"POST /jobs/train HTTP/1.1", *host, name + b": " + value, b"Content-Type: application/json")
    answer = raw(server, *lines, b"Content-Length: 2", b"Connection: close", body=b"{}")
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer[:300]


def stream(size: int) -> Iterator[bytes]:
    for _ in range(size // 65_536):
        yield b"[" * 65_536


@pytest.mark.parametrize(
    ("url", "kind", "most"),
    [
        ("/jobs/train", "application/json", 32 * MIB),
        ("/datasets", "multipart/form-data; boundary=b", 32 * MIB),
        ("/models/x/versions", "multipart/form-data; boundary=b", 32 * MIB),
        # Up to 128 MiB of images are allowed, and are in memory at one time, whole and in pieces.
        (f"/classify?model={MODEL}", "application/json", 400 * MIB),
    ],
)
def test_an_endless_body_is_cut_off_while_it_arrives(
    server: ApiProcess, client: httpx.Client, url: str, kind: str, most: int
) -> None:
    """It comes in chunks and says no length. The server's memory never holds more than the limit of that route."""
    with at_most(most, pid=server.pid):
        try:
            refused = client.post(url, content=stream(384 * MIB), headers={"Content-Type": kind})
        except (httpx.WriteError, httpx.RemoteProtocolError):
            return  # the connection was closed in the middle of the body
    assert_problem(refused, 413 if kind == "application/json" else refused.status_code)
    assert refused.status_code in (400, 413)
