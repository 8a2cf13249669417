"""What can go wrong in a use case, in the words of the domain. Nothing here knows of HTTP.

DomainError
├── NotFoundError        the named thing does not exist
├── ConflictError        it exists, but its state forbids what was asked
├── InvalidSpecError     the request can never run; ``errors`` points at each field
├── TooLargeError        more bytes, pixels or images than the settings allow
├── UnauthenticatedError nobody says who is asking, or with a token that is no good
├── ForbiddenError       who is asking may not do this
├── OverloadedError      no capacity now; ``retry_after`` seconds later there may be
└── UnavailableError     something that this service needs cannot be reached
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict


class FieldError(TypedDict):
    """One wrong field: a JSON pointer (RFC 6901) into the client's body, and what would be accepted there."""

    pointer: str
    detail: str


class DomainError(Exception):
    """Base of the errors that a caller is told about; ``detail`` is one plain sentence for them."""

    def __init__(self, detail: str, *, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors: list[FieldError] = list(errors)


class NotFoundError(DomainError):
    """No such job, model, version, alias, data set or artifact."""


class ConflictError(DomainError):
    """The present state forbids the request, e.g. cancelling a finished job."""


class InvalidSpecError(DomainError):
    """A spec that can never run; ``errors`` holds a pointer for each wrong field."""


class TooLargeError(DomainError):
    """Over a limit of the settings."""


class UnauthenticatedError(DomainError):
    """No token, or one that is unknown, revoked or expired."""


class ForbiddenError(DomainError):
    """The token's scope, or the place that the request comes from, does not allow this."""


class OverloadedError(DomainError):
    """Queues are full; worth another try after ``retry_after`` seconds."""

    def __init__(self, detail: str, *, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class UnavailableError(DomainError):
    """A part that this service needs (database, storage, broker) does not answer."""
