"""The log of every process: one line a record on stderr, as JSON or as text, with ids and without secrets.

In JSON a record is ``time`` (UTC, ISO 8601), ``level``, ``logger``, ``message``; the ids of :func:`context`
(``request_id``, ``job_id``, ``attempt``) and of the process (``worker``); what the caller gave as ``extra``; and
``exception`` with the whole traceback. Text is for a person: continuation lines are indented, so that nothing that a
client sent can look like a line of its own.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from app.redaction import Redactor

Format = Literal["auto", "json", "text"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_context: ContextVar[Mapping[str, Any] | None] = ContextVar("log_context", default=None)


def configure(
    form: Format, *, level: str, secrets: Iterable[str] = (), stream: TextIO | None = None, **always: str
) -> None:
    """Send every record of this process to ``stream`` (stderr), also uvicorn's, Celery's and uncaught exceptions.

    ``auto`` is text on a terminal and JSON elsewhere. ``secrets`` are masked wherever they occur; ``always`` are fields
    of every line. A later call replaces an earlier one.
    """
    handler = _Handler(stream or sys.stderr, always)
    if form == "auto":
        form = "text" if handler.stream.isatty() else "json"
    redact = Redactor(secrets)
    handler.setFormatter(_Json(redact) if form == "json" else _Text(redact))
    root = logging.getLogger()
    for old in [found for found in root.handlers if isinstance(found, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # It tells twice a start how it would do what is seldom to be done; what it does is told by `clead migrate`.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    _take_over_uvicorn()
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


@contextmanager
def context(**fields: Any) -> Iterator[None]:
    """Put ``fields`` on every line logged inside the block, also by threads started with ``copy_context().run``."""
    token = _context.set({**(_context.get() or {}), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def replay(line: str) -> logging.LogRecord | None:
    """The record that another process of ours wrote as a line of JSON; None if ``line`` is something else."""
    try:
        fields = json.loads(line)
        levels = logging.getLevelNamesMapping()
        values = {
            "name": fields["logger"],
            "levelname": fields["level"],
            "levelno": levels[fields["level"]],
            "msg": fields["message"],
            "exc_text": fields.get("exception"),
        }
    except (ValueError, LookupError, TypeError):
        return None
    return logging.makeLogRecord(values)


class _Handler(logging.StreamHandler[TextIO]):
    """Adds the ids to each record; they are those of the thread that logs."""

    def __init__(self, stream: TextIO, always: Mapping[str, str]) -> None:
        super().__init__(stream)
        self._always = always

    def emit(self, record: logging.LogRecord) -> None:
        record.context = {**self._always, **(_context.get() or {})}
        super().emit(record)


class _Json(JsonFormatter):
    def __init__(self, redact: Redactor) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception", "stack_info": "stack"},
            # taskName: of asyncio, a number that says nothing. color_message: uvicorn's for a terminal.
            reserved_attrs=[*RESERVED_ATTRS, "context", "taskName", "color_message"],
        )
        self._redact = redact

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        log_data["time"] = _time(record)
        super().add_fields(log_data, record, message_dict)
        log_data.update(getattr(record, "context", {}))
        log_data.update(self._redacted(log_data))

    def _redacted(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._redact(value)
        if isinstance(value, dict):
            return {name: self._redacted(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._redacted(item) for item in value]
        return value


class _Text(logging.Formatter):
    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        context = getattr(record, "context", {})
        ids = " ".join(f"{name}={value}" for name, value in context.items() if name != "worker")
        message = super().format(record)  # with the traceback
        head = f"{_time(record)} {record.levelname} {record.name}: "
        first, *rest = self._redact(message).split("\n")
        lines = "\n".join([f"{first} [{ids}]" if ids else first, *(f"    {line}" for line in rest)])
        return head + _CONTROL.sub(lambda found: ascii(found.group())[1:-1], lines)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _take_over_uvicorn() -> None:
    """Records of uvicorn go the way of all others; its access log is replaced by :mod:`app.api.request_log`."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = name != "uvicorn.access"  # without any handler uvicorn does not log accesses at all


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger(__name__).critical("uncaught exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(given: threading.ExceptHookArgs) -> None:
    if given.exc_value is None:
        return
    name = given.thread.name if given.thread else "unknown"
    logging.getLogger(__name__).critical(
        "uncaught exception in thread %s", name, exc_info=(given.exc_type, given.exc_value, given.exc_traceback)
    )
