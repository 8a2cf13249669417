"""The HTTP front end: `uvicorn app.main:create_app --factory`, or `clead serve`."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from types import ModuleType

from fastapi import Depends, FastAPI
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import OperationalError
from starlette.types import ASGIApp

from app import logs, problems
from app.api import access, catalog, datasets, documentation, events, inference, jobs, operations, pictures, registry
from app.api.dependencies import Resources
from app.api.request_log import RequestLog
from app.api.requests import BodyLimit, body_limits, images_limit, refuse_unknown_query
from app.api.responses import Guarded
from app.api.telemetry import Telemetry
from app.folders import sweep
from app.records.session import Database
from app.schemas.problems import problem_responses
from app.security import Scope
from app.settings import DEVICE_ADVICE, Settings
from app.web import pages
from migrations import NewerSchemaError, refuse_newer
from models.precision import DeviceError

log = logging.getLogger(__name__)

ROUTERS: dict[ModuleType, Scope] = {
    jobs: "submit",
    events: "submit",
    pictures: "submit",
    catalog: "classify",
    registry: "classify",
    datasets: "submit",
    inference: "classify",
}
"""With the scope that their routes take at least; a route that takes more says so itself."""


def _open(settings: Settings, telemetry: Telemetry) -> Resources:
    try:
        return Resources.open(settings, metrics=telemetry.inference)
    except DeviceError as error:
        log.critical("not starting: %s; %s", error, DEVICE_ADVICE)
        raise


def _refuse_newer_schema(database: Database) -> None:
    try:
        refuse_newer(database)
    except NewerSchemaError as error:
        log.critical("not starting: %s", error)
        raise
    except OperationalError as error:  # it may come back: /readyz says that it is missing
        log.warning("the database does not answer yet: %s", error)


def _keep_what_is_imported() -> None:
    """Take what is there now out of the garbage collector's rounds.

    The modules, torch's above all, are half a million objects that stay; to look through them holds every request up
    for some 150 ms, every few hundred requests (docs/benchmarks.md, "Scale").
    """
    gc.collect()
    gc.freeze()


class _Service(FastAPI):
    """FastAPI, with the request log around everything, also around the answers to errors that nobody expected."""

    def build_middleware_stack(self) -> ASGIApp:
        return RequestLog(super().build_middleware_stack(), telemetry=self.state.telemetry)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application for ``settings``; without them, for those of the environment, in a process of its own.

    Such a process is a server's (`uvicorn app.main:create_app --factory`): its log is set up here, too.
    """
    if settings is None:
        settings = Settings()
        logs.configure(settings.log_format, level=settings.log_level, secrets=settings.secrets)
    telemetry = Telemetry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.resources = resources = _open(settings, telemetry)
        await run_in_threadpool(_refuse_newer_schema, resources.database)
        for folder in await run_in_threadpool(sweep, settings.work_dir):
            log.info("removed %s, left by a process that was killed", folder.name)
        telemetry.observe(resources)
        _keep_what_is_imported()
        try:
            yield
        finally:
            await run_in_threadpool(resources.close)

    app = _Service(
        title="clead",
        version=version("clead"),
        summary="Train, attack, compare and serve robust image classifiers.",
        description=documentation.DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.telemetry = telemetry
    problems.install(app)
    documentation.install(app)
    app.add_middleware(BodyLimit, limit_of=body_limits(settings), images_max_bytes=2 * images_limit(settings))
    app.add_middleware(Guarded)
    responses = access.RESPONSES | problem_responses(422)
    for module, scope in ROUTERS.items():
        checks = [access.needs(scope), Depends(refuse_unknown_query)]
        app.include_router(module.router, dependencies=checks, responses=responses)
    app.include_router(operations.router)
    app.include_router(pages.router)
    pages.mount_static(app)
    return app
