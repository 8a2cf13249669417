"""Is it alive, is it ready, what does it do, what is it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version as installed_version

import torch
from fastapi import APIRouter, Depends, Request, Response, status
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app import security
from app.api import access
from app.api.access import RESPONSES
from app.api.dependencies import Opened, Resources
from app.api.inference import DEFAULT_ALIAS
from app.api.telemetry import Telemetry
from app.errors import DomainError, ForbiddenError, UnauthenticatedError
from app.queue import QUEUES, broker_folder, broker_reachable
from app.records import ModelVersion
from app.records.session import Database
from app.schemas.operations import Check, Health, Readiness, Version
from app.services import models, workers
from migrations import NewerSchemaError, is_current

router = APIRouter(tags=["operations"])


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", response_model=Health, summary="Does the process live?")
async def healthz() -> Health:
    """Answers as long as the process does; asks nothing else, and waits for no thread."""
    return Health()


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    response_model=Readiness,
    summary="Can the service do its work?",
    responses={503: {"model": Readiness, "description": "Something is missing; `detail` and `checks` name it."}},
)
async def readyz(opened: Opened, response: Response) -> Readiness:
    """Database, broker, storage, a worker seen lately for every queue, and the production model, loaded once."""
    steps: dict[str, Callable[[Resources], Check]] = {
        "database": _database,
        "broker": _broker,
        "storage": _storage,
        "worker": _worker,
    }
    checks = await run_in_threadpool(lambda: {name: check(opened) for name, check in steps.items()})
    checks["models"] = await _models(opened)
    missing = [f"{name}: {check.detail}" for name, check in checks.items() if not check.ok]
    if not missing:
        return Readiness(status="ready", detail="everything is there", checks=checks)
    response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    return Readiness(status="not ready", detail="; ".join(missing), checks=checks)


def scraper(request: Request, opened: Opened, bearer: access.Bearer = None) -> None:
    """Lets in who may read metrics. While the database that knows the tokens is away: who was let in before.

    Else an outage of the database would hide itself, from the one who is to report it.
    """
    telemetry: Telemetry = request.app.state.telemetry
    token = bearer.credentials if bearer else request.cookies.get(access.COOKIE)
    # Without any token: whoever is on this machine. A port is of one connection alone.
    address = request.client.host if request.client else ""
    known = security.digest(token, opened.token_key()) if token else address
    try:
        access.check_scope(access.principal(request, opened, bearer), "classify")
    except SQLAlchemyError:
        if known not in telemetry.let_in:
            raise
        if not token:
            access.refuse_other_machines(request)
    except (UnauthenticatedError, ForbiddenError):
        telemetry.let_in.discard(known)
        raise
    else:
        telemetry.let_in.add(known)


@router.get(
    "/metrics",
    response_class=Response,
    summary="Prometheus metrics",
    dependencies=[Depends(scraper)],
    responses={
        **RESPONSES,
        200: {"description": "Text format.", "content": {"text/plain": {"schema": {"type": "string"}}}},
    },
)
def metrics(request: Request) -> Response:
    """Requests, inference, jobs and queues, workers, memory; also while the database is away, which it then says."""
    telemetry: Telemetry = request.app.state.telemetry
    return Response(telemetry.render(), media_type=CONTENT_TYPE_LATEST)


@router.head("/version", include_in_schema=False)
@router.get("/version", response_model=Version, summary="What runs here?")
def version() -> Version:
    """Versions of the service, of Python and of PyTorch."""
    return Version(version=installed_version("clead"), python=platform.python_version(), torch=torch.__version__)


def _database(opened: Resources) -> Check:
    try:
        with opened.database.session() as session:
            session.execute(select(1))
            models.find_alias(session, DEFAULT_ALIAS)
            current = is_current(session.connection())
    except SQLAlchemyError as error:
        return Check(ok=False, detail=f"does not answer or has no tables ({type(error).__name__}); run clead migrate")
    except NewerSchemaError as error:
        return Check(ok=False, detail=str(error))
    if not current:
        return Check(ok=False, detail="its schema is an older version's; run clead migrate")
    return Check(ok=True, detail="answers")


def _broker(opened: Resources) -> Check:
    if opened.settings.broker_url.startswith("filesystem://"):
        found = broker_folder(opened.settings).is_dir()
        return Check(ok=found, detail="its folder is there" if found else "its folder is missing")
    if not broker_reachable(opened.celery):
        return Check(ok=False, detail="does not answer; jobs wait in the database")
    return Check(ok=True, detail="answers")


def _storage(opened: Resources) -> Check:
    try:
        opened.storage.check()
    except DomainError as error:
        return Check(ok=False, detail=error.detail)
    return Check(ok=True, detail="answers")


def _worker(opened: Resources) -> Check:
    try:
        with opened.database.session() as session:
            alive = workers.seen_lately(session, seconds=opened.settings.lease_seconds)
            served = {queue for worker in alive for queue in worker.queues}
    except SQLAlchemyError:
        return Check(ok=False, detail="unknown without the database")
    missing = [queue for queue in QUEUES if queue not in served]
    if missing:
        return Check(ok=False, detail=f"none seen lately for the queue {', '.join(missing)}; run clead worker")
    return Check(ok=True, detail=f"{len(alive)} seen lately")


async def _models(opened: Resources) -> Check:
    """Loads a production model that this process never had, so that no request has to wait for it.

    One that it had is not touched: where more are in production than fit into memory, they would push each other out.
    """
    try:
        versions = await run_in_threadpool(_in_production, opened.database)
        for version in versions:
            if not opened.engine.has_loaded(version):
                await opened.engine.wait_for(version)
    except SQLAlchemyError:
        return Check(ok=False, detail="unknown without the database")
    except DomainError as error:
        return Check(ok=False, detail=error.detail)
    loaded = ", ".join(version.reference for version in versions)
    return Check(ok=True, detail=f"loaded: {loaded}" if loaded else "no model is in production")


def _in_production(database: Database) -> list[ModelVersion]:
    with database.session() as session:
        return models.find_alias(session, DEFAULT_ALIAS)
