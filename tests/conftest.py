"""Fixtures that several test folders share: real servers, and whole deployments on them."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from sqlalchemy import create_engine, text

from app.records.session import Database
from app.settings import Settings
from app.storage import Storage
from migrations import upgrade
from tests import servers
from tests.deployment import Deployment

DEPLOYMENTS = ("sqlite+filesystem", "postgres+redis")

# Two cores are shared by the tests and what they start; threads of one process only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that no core waits for one at the end: whole systems, then those of many tests."""
    system = Path(__file__).parent / "system"
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (system not in item.path.parents, -tests[item.path], item.path))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """URL of a real Redis."""
    with servers.redis() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a real PostgreSQL server, without a database name."""
    with servers.postgres() as url:
        yield url


S3_ACCOUNT = {"AWS_ACCESS_KEY_ID": "clead", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Endpoint of a real S3 server. This process and those that it starts find it and its keys in the environment."""
    with servers.s3() as url, pytest.MonkeyPatch.context() as environment:
        for name, value in {**S3_ACCOUNT, "AWS_ENDPOINT_URL": url}.items():
            environment.setenv(name, value)
        yield url


def new_bucket() -> str:
    """URL of a folder in a new bucket on the S3 server that the environment names."""
    name = f"test-{uuid.uuid4().hex}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(name)
    return f"s3://{name}/clead"


@pytest.fixture(params=("file", "s3"))
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty storage of each kind."""
    if request.param == "file":
        return f"file://{tmp_path}/store"
    request.getfixturevalue("s3_server")
    return new_bucket()


def new_database(server: str) -> str:
    """URL of a new, empty database on a PostgreSQL server."""
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{server}/{name}"


def database_urls(kind: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """The URLs that differ between the deployments; the servers are started when first needed."""
    if kind == "sqlite+filesystem":
        return {}
    return {
        "database_url": new_database(request.getfixturevalue("postgres_server")),
        "broker_url": new_broker(request.getfixturevalue("redis_server")),
    }


def new_broker(server: str) -> str:
    """URL of a numbered database of a Redis server that no other test has."""
    return f"{server.rpartition('/')[0]}/{next(_redis_numbers)}"


_redis_numbers = iter(range(1, 10_000))  # each test takes its own of Redis's numbered databases, see servers.redis_on


def make_settings(kind: str, request: pytest.FixtureRequest, home: Path, **values: Any) -> Settings:
    """Settings of a deployment whose lost workers are noticed within seconds."""
    fast = {"lease_seconds": 2.5, "heartbeat_seconds": 0.25, "reaper_seconds": 0.5, "checkpoint_seconds": 0.2}
    return Settings(home=home, device="cpu", **fast | database_urls(kind, request) | values)


@pytest.fixture(params=DEPLOYMENTS)
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """A migrated installation without a worker, on each pair of database and broker."""
    yield from _installed(make_settings(request.param, request, tmp_path / "home"), tmp_path)


@pytest.fixture
def laptop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """The same on SQLite and a folder alone, where the pair makes no difference."""
    yield from _installed(make_settings("sqlite+filesystem", request, tmp_path / "home"), tmp_path)


def _installed(settings: Settings, folder: Path) -> Iterator[Deployment]:
    upgrade(settings)
    made = Deployment(settings, Database(settings.database_url), Storage(settings.storage_url), folder / "log")
    yield made
    made.close()


@pytest.fixture(params=("sqlite", "postgres"))
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty, migrated database of each kind."""
    settings = Settings(home=tmp_path)
    if request.param == "postgres":
        url = new_database(request.getfixturevalue("postgres_server"))
        settings = Settings(home=tmp_path, database_url=url)
    upgrade(settings)
    opened = Database(settings.database_url)
    yield opened
    opened.close()
