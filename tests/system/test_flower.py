"""`clead flower` sees the workers and their tasks on Redis, and cannot touch them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.records.session import Database
from app.storage import Storage
from migrations import upgrade
from tests.conftest import make_settings, new_broker
from tests.deployment import Deployment
from tests.servers import free_port, listens, wait_for


@pytest.fixture
def on_redis(request: pytest.FixtureRequest, tmp_path: Path, redis_server: str) -> Iterator[Deployment]:
    settings = make_settings("sqlite+filesystem", request, tmp_path / "home", broker_url=new_broker(redis_server))
    upgrade(settings)
    made = Deployment(settings, Database(settings.database_url), Storage(settings.storage_url), tmp_path / "log")
    yield made
    made.close()


def test_flower_shows_workers_tasks_and_queues(on_redis: Deployment) -> None:
    port = free_port()
    on_redis.start([sys.executable, "-m", "app.cli", "flower", "--port", str(port)])
    wait_for(lambda: listens(port), seconds=60, what="Flower")
    on_redis.start_worker()
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as flower:

        def workers() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = flower.get("/workers?json=1").json()["data"]
            return found

        wait_for(lambda: len(workers()) == 1 and workers()[0]["status"] is True, seconds=60, what="the worker")

        def shown() -> bool:
            """Redis keeps no event for a Flower that is just connecting, so one more task is told until one is seen."""
            on_redis.publish("no-such-job")
            return "no-such-job" in flower.get("/tasks/datatable", params=TASKS).text

        wait_for(shown, seconds=60, what="a task")
        wait_for(lambda: workers()[0].get("task-succeeded", 0) >= 1, seconds=60, what="a task's end")
        page = flower.get("/broker").text
        assert 'id="train"' in page and 'id="evaluate"' in page
        for forbidden in ("task/async-apply/clead.run_job", f"worker/shutdown/{workers()[0]['hostname']}"):
            assert flower.post(f"/api/{forbidden}", json={}).status_code == 401
    assert "Traceback" not in on_redis.tail()


TASKS = {
    "draw": 1,
    "start": 0,
    "length": 100,
    "search[value]": "",
    "order[0][column]": 0,
    "order[0][dir]": "asc",
    "columns[0][data]": "name",
}
