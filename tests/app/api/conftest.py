"""A service on a database of its own, without a worker, and small models to put into it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image

from app import security
from app.api.dependencies import Resources
from app.main import create_app
from app.records.session import Database
from app.services import models, tokens
from app.settings import Settings
from app.storage import Storage
from migrations import upgrade
from models.checkpoints import save_model
from models.networks import ImageModel, build_model
from models.specs import BackboneSpec, ModelCard

SHAPE = (1, 8, 8)
HERE = "http://localhost"
"""Without a token the service answers under its machine's own name alone."""


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of the present schema, to be copied."""
    settings = Settings(home=tmp_path_factory.mktemp("migrated"))
    upgrade(settings)
    return settings.home / "clead.db"


@pytest.fixture
def settings(tmp_path: Path, migrated: Path) -> Settings:
    shutil.copy(migrated, tmp_path / "clead.db")
    return Settings(home=tmp_path)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    opened = Database(settings.database_url)
    yield opened
    opened.close()


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), HERE, raise_server_exceptions=False) as opened:
        yield opened


def resources_of(client: TestClient) -> Resources:
    found: Resources = client.app.state.resources  # type: ignore[attr-defined]
    return found


def make_model(
    *, kind: Literal["encoder", "classifier"] = "classifier", seed: int = 0, shape: Any = SHAPE
) -> ImageModel:
    """A tiny network with random weights."""
    card = ModelCard(
        kind=kind,
        backbone=BackboneSpec(width=4, blocks=(1,)),
        image_shape=shape,
        classes=tuple(f"class {index}" for index in range(10)) if kind == "classifier" else None,
        mean=(0.5,) * shape[0],
        std=(0.25,) * shape[0],
    )
    return build_model(card, seed=seed).eval()


Register = Callable[[str, ImageModel], str]


@pytest.fixture
def register(settings: Settings, database: Database, tmp_path: Path) -> Register:
    """Put a model into the registry as a worker does; answers its reference."""

    def put(name: str, model: ImageModel) -> str:
        path = tmp_path / "weights.safetensors"
        save_model(path, model)
        artifact = Storage(settings.storage_url).put_file(path)
        with database.writing() as session:
            version = models.register_version(
                session, name=name, sha256=artifact.sha256, size=artifact.size, card=model.card.model_dump(mode="json")
            )
            return version.reference

    return put


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def random_pixels(count: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Grey pictures of the models' size, uint8 (count, 8, 8)."""
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE[1:]), dtype=np.uint8)


def assert_problem(response: Any, status: int, *, says: str = "", pointer: str | None = None) -> dict[str, Any]:
    """An RFC 9457 answer of this status whose text holds ``says``, with an error at ``pointer``."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["title"]
    assert says in problem["detail"] or any(says in error["detail"] for error in problem.get("errors", [])), problem
    assert "Traceback" not in response.text
    if pointer is not None:
        assert pointer in [error["pointer"] for error in problem["errors"]], problem
    return problem


Issue = Callable[..., tuple[str, str]]


@pytest.fixture
def issue(settings: Settings, database: Database) -> Issue:
    """Make a token; answers its id and the token."""

    def make(scope: security.Scope = "admin", *, name: str | None = None, **details: Any) -> tuple[str, str]:
        with database.writing() as session:
            key = security.secret_key(settings)
            record, token = tokens.create(session, name=name or f"a {scope}", scope=scope, key=key, **details)
            return record.id, token

    return make


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
