"""A job's life as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from fastapi.concurrency import run_in_threadpool
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.api.access import JobId
from app.api.dependencies import Opened
from app.records import FINAL
from app.records.session import Database
from app.schemas.problems import problem_responses
from app.services import jobs

router = APIRouter(tags=["jobs"])

POLL_SECONDS = 0.5
"""How often the database is asked. It is the one place that workers on any machine report to."""
METRICS_PAGE = 500

_EVENT = {
    "description": "one event of the stream; `data` is JSON",
    "type": "object",
    "required": ["event", "id", "data"],
    "properties": {
        "event": {"type": "string", "enum": ["status", "progress", "metric"], "description": "what has happened"},
        "id": {"type": "string", "description": "what `Last-Event-ID` goes on from"},
        "data": {"type": "string", "contentMediaType": "application/json", "description": "the job, progress or point"},
    },
}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": (
            "Events until the job is final. `status`: the job, whenever its status changes and once at the start. "
            "`progress`: its `progress` object. `metric`: `{series, step, value}`, each point once. An event's id is "
            "where `Last-Event-ID` goes on."
        ),
        "content": {"text/event-stream": {"schema": _EVENT}},
    },
    204: {"description": "`Last-Event-ID` is the job's last event: there will be no more."},
}
LastEventId = Annotated[str | None, Header(max_length=100, description="id of the last event that was seen")]
MAX_METRIC_ID = 2**63 - 1
"""Largest number that a database can be asked for."""


@dataclass
class _Seen:
    """What a client knows already. ``metric`` is the id of the last metric point; metric ids grow with arrival."""

    metric: int = 0
    status: str | None = None
    progress: Any = None


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventSourceResponse,
    summary="Follow a job",
    responses={**_EVENTS, **problem_responses(404)},
)
async def follow(opened: Opened, job_id: JobId, *, last_event_id: LastEventId = None) -> Response:
    """Server-sent events; the stream closes after the final status."""
    number, _, end = (last_event_id or "").partition("-")
    seen = _Seen(metric=min(int(number), MAX_METRIC_ID) if number.isascii() and number.isdigit() else 0)
    status = await run_in_threadpool(_status, opened.database, job_id)
    if end == status and status in FINAL:
        return Response(status_code=204)
    return EventSourceResponse(_events(opened.database, job_id, seen=seen))


def _status(database: Database, job_id: str) -> str:
    with database.session() as session:
        return jobs.get(session, job_id).status


async def _events(database: Database, job_id: str, *, seen: _Seen) -> AsyncIterator[bytes]:
    while True:
        events, more = await run_in_threadpool(_news, database, job_id, seen)
        if events:  # in one piece: a write a point would take longer than to read it
            yield b"".join(event.encode() for event in events)
        if seen.status in FINAL:
            return
        if not more:
            await asyncio.sleep(POLL_SECONDS)


def _news(database: Database, job_id: str, seen: _Seen) -> tuple[list[ServerSentEvent], bool]:
    """What has happened since ``seen``, which is brought up to date; and whether there is more to read at once."""
    with database.session() as session:
        view = jobs.job_view(session, jobs.get(session, job_id))
        points = jobs.metrics_after(session, job_id, after=seen.metric, limit=METRICS_PAGE)
    more = len(points) == METRICS_PAGE
    events = []
    for point in points:
        seen.metric = point.id
        value = {"series": point.series, "step": point.step, "value": point.value}
        events.append(_event("metric", value, id=str(seen.metric)))
    if view["progress"] is not None and view["progress"] != seen.progress:
        seen.progress = view["progress"]
        events.append(_event("progress", seen.progress, id=str(seen.metric)))
    # The final status comes last: after every metric.
    if view["status"] != seen.status and not (more and view["status"] in FINAL):
        seen.status = view["status"]
        events.append(_event("status", view, id=f"{seen.metric}-{seen.status}"))
    return events, more


def _event(kind: str, data: Any, *, id: str) -> ServerSentEvent:
    return ServerSentEvent(json.dumps(data), event=kind, id=id)
