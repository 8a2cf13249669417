"""Who may do what: the token of a request, its scope, and requests that a foreign web page made a browser send."""

from __future__ import annotations

from functools import cache
from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import HTTPConnection

from app import security
from app.api.dependencies import Opened, Resources
from app.errors import ForbiddenError, UnauthenticatedError
from app.schemas.problems import problem_responses
from app.services import tokens
from app.services.tokens import Principal

COOKIE = "clead_token"
RESPONSES = problem_responses(401, 403)
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_OWNER = Principal(scope="admin")

Bearer = Annotated[
    HTTPAuthorizationCredentials | None,
    Depends(HTTPBearer(auto_error=False, description="a token of `clead token create`")),
]


def principal(request: Request, opened: Opened, bearer: Bearer = None) -> Principal:
    """Who is asking. Without any token in the database: whoever is on this machine, and nobody else.

    Raises UnauthenticatedError and ForbiddenError.
    """
    if bearer is not None:
        return identify(opened, bearer.credentials)
    refuse_foreign_pages(request)
    if not tokens_required(opened):
        _refuse_other_machines(request)
        return _OWNER
    token = request.cookies.get(COOKIE)
    if token is None:
        raise UnauthenticatedError("send a token: Authorization: Bearer clead_…; the page at / has a login")
    return identify(opened, token)


@cache
def needs(scope: security.Scope) -> Any:
    """A route's dependency: the request's token allows ``scope``."""

    def check(asking: Annotated[Principal, Depends(principal)]) -> None:
        if not security.allows(asking.scope, scope):
            raise ForbiddenError(f"this takes a token of scope {scope}; this one has {asking.scope}")

    return Depends(check)


def identify(opened: Resources, token: str) -> Principal:
    """Who presents ``token``; raises UnauthenticatedError."""
    with opened.database.session() as session:
        found = tokens.authenticate(session, token, key=opened.token_key())
    if found.use_to_note and found.token_id is not None:
        with opened.database.writing() as session:
            tokens.note_use(session, found.token_id)
    return found


def tokens_required(opened: Resources) -> bool:
    with opened.database.session() as session:
        return tokens.required(session)


def refuse_foreign_pages(request: Request) -> None:
    """Raise ForbiddenError if another site's page makes a browser change something here (CSRF).

    A browser says where such a request comes from; whatever is no browser sends neither header.
    """
    if request.method in _READING:
        return
    origin, fetched_by = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if origin is not None:
        foreign = urlsplit(origin).netloc != request.headers.get("host")
    else:
        foreign = fetched_by not in {None, "same-origin", "none"}
    if foreign:
        raise ForbiddenError("a page of another site sent this request; only this service's own page may")


def _refuse_other_machines(connection: HTTPConnection) -> None:
    client = connection.client
    try:
        local = client is None or ip_address(client.host).is_loopback
    except ValueError:  # no address at all: a Unix socket, or a client inside this process
        local = True
    if not local:
        raise ForbiddenError(
            "there is no API token yet, and without one only this machine is answered; "
            "make one where the service runs: clead token create --name me --scope admin"
        )
