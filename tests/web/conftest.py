"""A service's database, and jobs as workers leave them in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.records import Job
from app.records.session import Database
from app.services import jobs
from app.settings import Settings
from migrations import upgrade

PutJob = Callable[..., str]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path / "home")
    upgrade(settings)
    return settings


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    opened = Database(settings.database_url)
    yield opened
    opened.close()


@pytest.fixture
def put_job(database: Database) -> PutJob:
    """Put a job with these columns into the database; answers its id."""

    def put(kind: str = "train", *, labels: dict[str, str] | None = None, **columns: Any) -> str:
        with database.writing() as session:
            job: Job = jobs.submit(
                session, kind="train", spec=columns.pop("spec", {"method": "standard"}), labels=labels
            )
            job.kind = kind
            for name, value in columns.items():
                setattr(job, name, value)
            return job.id

    return put
