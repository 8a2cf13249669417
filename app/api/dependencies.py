"""What the routes share: the process's resources, and the pieces that several of them take from a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from celery import Celery
from fastapi import Depends, Header, Path, Query, Request

from app.api.limits import RateLimits
from app.queue import create_celery
from app.records.session import Database
from app.security import secret_key
from app.services.paging import DEFAULT_LIMIT, MAX_LIMIT
from app.serving.engine import Engine
from app.serving.metrics import InferenceMetrics
from app.settings import Settings
from app.storage import Storage


@dataclass(frozen=True)
class Resources:
    """What one process of the API holds open."""

    settings: Settings
    database: Database
    storage: Storage
    celery: Celery
    engine: Engine
    rates: RateLimits

    @classmethod
    def open(cls, settings: Settings, *, metrics: InferenceMetrics) -> Resources:
        """Connect to what the settings name; nothing is contacted before it is used."""
        torch.set_num_threads(settings.torch_threads)
        storage = Storage(settings.storage_url)
        return cls(
            settings=settings,
            database=Database(settings.database_url),
            storage=storage,
            celery=create_celery(settings),
            engine=Engine(settings, storage, metrics=metrics),
            rates=RateLimits(),
        )

    def token_key(self) -> bytes:
        """The key of the tokens' hashes; read anew, since it is made with the first token."""
        return secret_key(self.settings)

    def close(self) -> None:
        """Finish the inference that waits, then let go of everything."""
        self.engine.close()
        self.celery.close()
        self.database.close()


async def resources(request: Request) -> Resources:
    """The resources that the lifespan opened. A coroutine, as it needs no thread."""
    found: Resources = request.app.state.resources
    return found


async def json_body(request: Request) -> Any:
    """The body as the client wrote it, which idempotency compares and the services validate."""
    return await request.json()


Opened = Annotated[Resources, Depends(resources)]
JsonBody = Annotated[Any, Depends(json_body)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="most items in the answer")]
Cursor = Annotated[str | None, Query(max_length=500, description="`next_cursor` of the page before")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        description="the same key with the same body answers the first response again; with another body: 409",
    ),
]
ModelName = Annotated[str, Path(max_length=100, description="name of a model")]
VersionNumber = Annotated[int, Path(ge=1, le=2**31 - 1, description="number of a version")]
FIRST_PAGE = DEFAULT_LIMIT
