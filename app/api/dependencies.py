"""What the routes share: the process's resources, and the pieces that several of them take from a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from fastapi import Depends, Header, Path, Query, Request
from starlette.exceptions import HTTPException

from app.api.limits import RateLimits
from app.queue import Application, create_celery
from app.records.session import Database
from app.security import secret_key
from app.services.paging import DEFAULT_LIMIT, MAX_LIMIT
from app.serving.engine import Engine
from app.serving.metrics import InferenceMetrics
from app.settings import Settings
from app.storage import Storage
from models.specs import MAX_VERSION


@dataclass(frozen=True)
class Resources:
    """What one process of the API holds open."""

    settings: Settings
    database: Database
    storage: Storage
    celery: Application
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


def idempotency_key(
    request: Request,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            pattern=r"^[!-+\--~]+$",
            description="the same key with the same body answers the first response again; with another body: 409. "
            "Visible ASCII without a comma",
        ),
    ] = None,
) -> str | None:
    """The request's key. Of two headers, here and in a proxy different ones might count: HTTPException 400."""
    if len(request.headers.getlist("idempotency-key")) > 1:
        raise HTTPException(400, "the header Idempotency-Key is there more than once; send one")
    return key


NO_NUL = r"^[^\x00]*$"
"""Text that a database can be asked for: PostgreSQL refuses the character NUL."""

Opened = Annotated[Resources, Depends(resources)]
JsonBody = Annotated[Any, Depends(json_body)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="most items in the answer")]
Cursor = Annotated[str | None, Query(max_length=500, description="`next_cursor` of the page before")]
IdempotencyKey = Annotated[str | None, Depends(idempotency_key)]
ModelName = Annotated[str, Path(max_length=100, pattern=NO_NUL, description="name of a model")]
DatasetName = Annotated[str, Path(max_length=100, pattern=NO_NUL, description="name of a data set")]
VersionNumber = Annotated[int, Path(ge=1, le=MAX_VERSION, description="number of a version")]
FIRST_PAGE = DEFAULT_LIMIT
