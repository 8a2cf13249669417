"""The log's lines, each from a process of its own: what configures logging changes the whole process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from app import logs
from app.security import new_token

CONFIGURED = """
    import logging, sys, threading
    from app import logs
    logs.configure({form!r}, level="info", secrets=["correct-horse"], worker="w1")
    log = logging.getLogger("test")
"""


def stderr_of(script: str, *, form: str = "json", status: int = 0) -> str:
    source = textwrap.dedent(CONFIGURED).format(form=form) + textwrap.dedent(script)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=os.environ, timeout=60)
    assert done.returncode == status, done.stderr
    return done.stderr


def records_of(script: str, *, status: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr_of(script, status=status).splitlines()]


def test_a_record_is_one_line_with_time_level_logger_message_and_ids() -> None:
    (record,) = records_of("""
        log.debug("not wanted")
        with logs.context(job_id="j1"), logs.context(attempt=2):
            log.warning("of %s:\\n%s", "job", "two lines", extra={"seconds": 1.5})
    """)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("time"))
    assert record == {
        "level": "WARNING",
        "logger": "test",
        "message": "of job:\ntwo lines",
        "worker": "w1",
        "job_id": "j1",
        "attempt": 2,
        "seconds": 1.5,
    }


def test_ids_end_with_their_block_and_pass_to_threads_that_take_them() -> None:
    seen = records_of("""
        from contextvars import copy_context
        with logs.context(job_id="j1"):
            for target, args in ((copy_context().run, (log.info, "taken")), (log.info, ("not taken",))):
                thread = threading.Thread(target=target, args=args)
                thread.start()
                thread.join()
        log.info("after")
    """)
    assert [(each["message"], each.get("job_id")) for each in seen] == [
        ("taken", "j1"),
        ("not taken", None),
        ("after", None),
    ]


def test_exceptions_are_one_line_with_their_traceback_whoever_meets_them() -> None:
    caught, in_thread, uncaught = records_of(
        """
        def fail():
            raise ValueError("no\\ngood")
        try:
            fail()
        except ValueError:
            log.exception("caught")
        thread = threading.Thread(target=fail, name="its-name")
        thread.start()
        thread.join()
        fail()
        """,
        status=1,
    )
    assert caught["message"] == "caught" and "its-name" in in_thread["message"]
    assert (uncaught["level"], uncaught["message"]) == ("CRITICAL", "uncaught exception")
    for record in (caught, in_thread, uncaught):
        assert record["exception"].startswith("Traceback") and record["exception"].endswith("ValueError: no\ngood")


def test_warnings_and_the_servers_own_records_go_the_same_way_and_only_once() -> None:
    seen = records_of("""
        import warnings
        from uvicorn.config import Config
        Config("x:y")  # configures its own log, as the `uvicorn` command does before it makes the application
        logs.configure("json", level="info")
        logging.getLogger("uvicorn.error").info("started")
        logging.getLogger("uvicorn.access").info("GET / 200")
        warnings.warn("old")
    """)
    assert [(each["logger"], each["message"].rpartition(": ")[2].strip()[:7]) for each in seen] == [
        ("uvicorn.error", "started"),
        ("py.warnings", "old"),
    ]


@pytest.mark.parametrize("form", ["json", "text"])
def test_secrets_are_masked_in_message_traceback_and_fields(form: str) -> None:
    token = new_token()
    text = stderr_of(
        f"""
        url, token = "redis://:hunter2@host/0", {token!r}
        log.info("to %s", url, extra={{"data": {{"args": [token, url]}}, "url": url}})
        try:
            raise OSError(f"{{url}} refused correct-horse and {{token}}")
        except OSError:
            log.exception("it failed")
        """,
        form=form,
    )
    assert "***" in text and "refused" in text
    for secret in ("hunter2", token[10:], "correct-horse"):
        # The traceback shows the line of source, too; the sentence in it holds names, not values.
        assert secret not in text


def test_text_is_for_a_person_and_nothing_sent_by_a_client_looks_like_a_line() -> None:
    lines = stderr_of(
        """
        with logs.context(request_id="r1"):
            log.info("GET %s", "/x\\n2026-01-01T00:00:00.000Z ERROR app: stolen\\r\\x1b[31mred\\u2028")
        """,
        form="text",
    ).splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"\S+Z INFO test: GET /x \[request_id=r1\]", lines[0])
    assert lines[1] == r"    2026-01-01T00:00:00.000Z ERROR app: stolen\r\x1b[31mred\u2028"


def test_the_least_level_holds_for_the_servers_own_records_too() -> None:
    """The server has given its loggers a level before this log is configured."""
    seen = records_of("""
        from uvicorn.config import Config
        Config("x:y")
        logs.configure("json", level="warning")
        logging.getLogger("uvicorn.error").info("started")
        logging.getLogger("uvicorn.error").warning("odd \u2028 \u00e9")
    """)
    assert [each["message"] for each in seen] == ["odd \u2028 \u00e9"]


def test_auto_is_json_where_nobody_sits_at_a_terminal() -> None:
    assert json.loads(stderr_of('log.info("x")', form="auto"))["message"] == "x"


def test_auto_is_text_at_a_terminal() -> None:
    primary, secondary = os.openpty()
    source = textwrap.dedent(CONFIGURED).format(form="auto") + 'log.info("seen")'
    subprocess.run([sys.executable, "-c", source], stderr=secondary, check=True, timeout=60)
    os.close(secondary)
    assert os.read(primary, 1000).decode().strip().endswith("Z INFO test: seen".rpartition("Z")[2])
    os.close(primary)


def test_a_line_of_another_process_becomes_its_record_again() -> None:
    line, other = stderr_of("""
        try:
            1 / 0
        except ZeroDivisionError:
            log.exception("100 %s of it", "%")
        log.info("second")
    """).splitlines()
    record = logs.replay(line)
    assert record is not None
    assert (record.name, record.levelname, record.getMessage()) == ("test", "ERROR", "100 % of it")
    assert record.exc_text is not None and record.exc_text.endswith("ZeroDivisionError: division by zero")
    assert logs.replay(other) is not None
    for text in ("", "plain", "{}", "[1]", "7", '{"logger": "x", "level": "NONE", "message": "y"}', line[:-5]):
        assert logs.replay(text) is None
