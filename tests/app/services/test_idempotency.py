"""The same key answers the first response; of two requests at once one creates."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from app.errors import ConflictError
from app.records.session import Database
from app.services import jobs
from app.services.idempotency import fingerprint, replay_or_store


def request(database: Database, *, key: str | None, body: Any) -> tuple[dict[str, Any], bool]:
    with database.writing() as session:

        def create() -> dict[str, Any]:
            return {"id": jobs.submit(session, kind="train", spec=body).id}

        return replay_or_store(session, create, scope="POST /jobs/train", key=key, fingerprint=fingerprint(body))


def count(database: Database) -> int:
    with database.session() as session:
        return len(jobs.list_jobs(session).items)


def test_a_repeated_key_answers_the_first_response(database: Database) -> None:
    first, replayed = request(database, key="k", body={"a": 1, "b": 2})
    assert not replayed
    assert request(database, key="k", body={"b": 2, "a": 1}) == (first, True)
    with pytest.raises(ConflictError):
        request(database, key="k", body={"a": 2})
    assert request(database, key=None, body={"a": 1, "b": 2})[0] != first
    assert count(database) == 2


def test_of_requests_at_once_one_creates(database: Database) -> None:
    barrier = threading.Barrier(6)
    answers: list[str] = []

    def post() -> None:
        barrier.wait()
        answers.append(request(database, key="k", body={})[0]["id"])

    threads = [threading.Thread(target=post) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 6 and len(set(answers)) == 1
    assert count(database) == 1


def test_a_request_that_fails_leaves_its_key_free(database: Database) -> None:
    def refuse() -> dict[str, Any]:
        raise ConflictError("no")

    with pytest.raises(ConflictError), database.writing() as session:
        replay_or_store(session, refuse, scope="s", key="k", fingerprint="f")
    with database.writing() as session:
        assert replay_or_store(session, lambda: {"id": "x"}, scope="s", key="k", fingerprint="f") == (
            {"id": "x"},
            False,
        )
