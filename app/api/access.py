"""Who may do what: the token of a request, its scope, and requests that a foreign web page made a browser send."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Path, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection

from app import security
from app.api.dependencies import NO_NUL, Opened, Resources, resources
from app.errors import ForbiddenError, UnauthenticatedError
from app.schemas.problems import problem_responses
from app.services import jobs, tokens
from app.services.tokens import OPERATOR, Limits, Principal

COOKIE = "clead_token"
RESPONSES = problem_responses(401, 403, 429)
_READING = frozenset({"GET", "HEAD", "OPTIONS"})

_BEARER = HTTPBearer(auto_error=False, description="a token of `clead token create`")
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]


def principal(request: Request, opened: Opened, bearer: Bearer = None) -> Principal:
    """Who is asking. Without any token in the database: whoever is on this machine, and nobody else.

    One request is looked at, and counted, once.
    Raises UnauthenticatedError, ForbiddenError, and OverloadedError for more requests than the account may send.
    """
    known: Principal | None = getattr(request.state, "principal", None)
    if known is not None:
        return known
    asking = _principal(request, opened, bearer)
    if asking.account is not None:
        opened.rates.count(asking.account, per_minute=asking.limits.requests_per_minute)
    request.state.principal = asking
    return asking


def _principal(request: Request, opened: Resources, bearer: HTTPAuthorizationCredentials | None) -> Principal:
    if bearer is not None:
        return _noted(request, identify(opened, bearer.credentials))
    refuse_foreign_pages(request)
    if not tokens_required(opened):
        refuse_other_machines(request)
        return OPERATOR
    token = request.cookies.get(COOKIE)
    if token is None:
        raise UnauthenticatedError("send a token: Authorization: Bearer clead_…; the page at / has a login")
    return _noted(request, identify(opened, token))


def _noted(request: Request, asking: Principal) -> Principal:
    """The id of the token is for the access log; the token itself is not."""
    request.state.token_id = asking.token_id
    return asking


Asking = Annotated[Principal, Depends(principal)]


def own_job(
    opened: Opened,
    asking: Asking,
    job_id: Annotated[str, Path(max_length=100, pattern=NO_NUL, description="id of a job")],
) -> str:
    """The id in the path, of a job that is theirs; NotFoundError for another's, as for one that is not there."""
    with opened.database.session() as session:
        jobs.require(session, job_id, asking=asking)
    return job_id


JobId = Annotated[str, Depends(own_job)]


@dataclass(frozen=True)
class _Needs:
    scope: security.Scope

    async def __call__(self, asking: Asking) -> None:
        check_scope(asking, self.scope)


def needs(scope: security.Scope) -> Any:
    """A route's dependency: the request's token allows ``scope``."""
    return Depends(_Needs(scope))


def scopes_of(dependant: Dependant) -> list[security.Scope]:
    """What a route itself says that it needs; what a router adds where it is included is not known to it."""
    return [inner.call.scope for inner in dependant.dependencies if isinstance(inner.call, _Needs)]


async def admit(request: Request, scopes: Collection[security.Scope]) -> None:
    """What the route's dependencies check of who asks, for a route that would read its body before them."""
    bearer = await _BEARER(request)
    asking = await run_in_threadpool(principal, request, await resources(request), bearer)
    for scope in scopes:
        check_scope(asking, scope)


def check_scope(asking: Principal, scope: security.Scope) -> None:
    """Raise ForbiddenError unless ``asking`` may do what takes ``scope``."""
    if not security.allows(asking.scope, scope):
        raise ForbiddenError(f"this takes a token of scope {scope}; this one has {asking.scope}")


def identify(opened: Resources, token: str) -> Principal:
    """Who presents ``token``; raises UnauthenticatedError."""
    settings = opened.settings
    defaults = Limits(
        requests_per_minute=settings.token_requests_per_minute,
        unfinished_jobs=settings.token_unfinished_jobs,
        stored_bytes=settings.token_stored_bytes,
    )
    with opened.database.session() as session:
        found = tokens.authenticate(session, token, key=opened.token_key(), defaults=defaults)
    if found.use_to_note and found.token_id is not None:
        with opened.database.writing() as session:
            tokens.note_use(session, found.token_id)
    return found


def tokens_required(opened: Resources) -> bool:
    with opened.database.session() as session:
        return tokens.required(session)


def refuse_foreign_pages(request: Request) -> None:
    """Raise ForbiddenError if another site's page makes a browser change something here (CSRF).

    A browser says where such a request comes from, and no page can make it say otherwise; whatever is no browser sends
    neither header. `Sec-Fetch-Site` is its own verdict, over all redirects: an opaque origin (a sandboxed frame) is
    cross-site to everything. Old browsers do not send it, nor others over plain HTTP to another machine.
    """
    if request.method in _READING:
        return
    origin, fetched_by = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if fetched_by is not None:
        foreign = fetched_by not in {"same-origin", "none"}
    else:
        foreign = origin is not None and origin.rpartition("://")[2] != request.headers.get("host")
    if foreign:
        raise ForbiddenError("a page of another site sent this request; only this service's own page may")


def refuse_other_machines(connection: HTTPConnection) -> None:
    """Raise ForbiddenError unless this machine asks, under its own name."""
    client = connection.client
    try:
        local = client is None or ip_address(client.host).is_loopback
    except ValueError:  # no address at all: a Unix socket, or a client inside this process
        local = True
    if not (local and _is_local_name(connection.headers.get("host", ""))):
        raise ForbiddenError(
            "there is no API token yet, and without one only this machine is answered, under its own name; "
            "make one where the service runs: clead token create --name me --scope admin"
        )


def _is_local_name(host: str) -> bool:
    """Whether a Host header names this machine itself.

    Any other name was sent on by a proxy, or is a foreign page's that now resolves to this machine (DNS rebinding).
    """
    try:
        name = urlsplit(f"//{host}").hostname or "localhost"
    except ValueError:  # no name at all, such as "["
        return False
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
