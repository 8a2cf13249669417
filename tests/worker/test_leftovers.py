"""Files that a killed worker could not remove go when the next one starts; those that may be needed stay."""

from __future__ import annotations

from pathlib import Path

from app.records import Job
from app.services import jobs
from app.settings import Settings
from migrations import upgrade
from worker.context import Worker
from worker.leftovers import sweep_storage


def test_only_what_belongs_to_jobs_that_succeeded_is_removed(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    upgrade(settings)
    worker = Worker.open(settings, queues=("train",))
    sweep_storage(worker)  # nothing is there yet
    ids = {}
    for status in ("succeeded", "failed", "running"):
        with worker.database.writing() as session:
            ids[status] = jobs.submit(session, kind="train", spec={}).id
            session.get_one(Job, ids[status]).status = status
        worker.checkpoints_of(ids[status]).put_bytes(b"state")
        worker.evidence_of(ids[status]).put_bytes(b"evidence")
    worker.checkpoints_of("of-another-database").put_bytes(b"state")
    sweep_storage(worker)
    for scope, kept in (("checkpoints", ["of-another-database"]), ("evidence", [])):
        found = worker.storage.scopes(scope)
        assert sorted(found) == sorted([*kept, ids["failed"], ids["running"]])
    worker.database.close()
