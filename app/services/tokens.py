"""API tokens: make, list, revoke, and find out who is asking."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Session

from app import security
from app.errors import NotFoundError, UnauthenticatedError
from app.records import ApiToken, utc_now

_USE_NOTED_EVERY = timedelta(minutes=1)
_REFUSED = "this token is not known here, was revoked or has expired"  # which of them is nobody's business


@dataclass(frozen=True)
class Limits:
    """What one account may use; 0: as much as there is."""

    requests_per_minute: int = 0
    unfinished_jobs: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True)
class Principal:
    """Who is asking. ``account`` is the token's name; None where no tokens are asked for."""

    scope: str
    account: str | None = None
    token_id: str | None = None
    limits: Limits = Limits()
    use_to_note: bool = False

    def owns(self, account: str | None) -> bool:
        """Whether what belongs to ``account`` is theirs to see and to change: an administrator's is everything."""
        return self.scope == "admin" or (account is not None and account == self.account)


OPERATOR = Principal(scope="admin")
"""Whoever runs the service: the worker, the command line, and this machine as long as there is no token."""


def create(
    session: Session,
    *,
    name: str,
    scope: security.Scope,
    key: bytes,
    lifetime: timedelta | None = None,
    requests_per_minute: int | None = None,
    unfinished_jobs: int | None = None,
    stored_bytes: int | None = None,
) -> tuple[ApiToken, str]:
    """Writing. The record and the token itself, which is known at this moment alone. A limit left None: the default."""
    token, now = security.new_token(), utc_now()
    record = ApiToken(
        name=name,
        scope=scope,
        digest=security.digest(token, key),
        hint=token[: security.HINT_LENGTH],
        requests_per_minute=requests_per_minute,
        unfinished_jobs=unfinished_jobs,
        stored_bytes=stored_bytes,
        created_at=now,
        expires_at=None if lifetime is None else now + lifetime,
    )
    session.add(record)
    session.flush()
    return record, token


def listed(session: Session) -> Sequence[ApiToken]:
    """All tokens, the newest first, with those that are no longer good."""
    return session.scalars(select(ApiToken).order_by(ApiToken.id.desc())).all()


def revoke(session: Session, token_id: str) -> ApiToken:
    """Writing. From the next request on the token is refused; NotFoundError if there is none of this id."""
    record = session.get(ApiToken, token_id)
    if record is None:
        raise NotFoundError(f"there is no token {token_id!r}; `clead token list` shows their ids")
    record.revoked_at = record.revoked_at or utc_now()
    return record


def revoke_others(session: Session, record: ApiToken) -> None:
    """Writing. Of the account's tokens of this scope, the given one alone stays good."""
    others = (ApiToken.name == record.name, ApiToken.scope == record.scope, ApiToken.id != record.id)
    session.execute(update(ApiToken).where(*others, ApiToken.revoked_at.is_(None)).values(revoked_at=utc_now()))


def required(session: Session) -> bool:
    """Whether requests need a token: from the first one made on, also when all are revoked."""
    return bool(session.scalar(select(exists().where(ApiToken.id.is_not(None)))))


def authenticate(session: Session, token: str, *, key: bytes, defaults: Limits) -> Principal:
    """Who presents ``token``, with its own limits before the ``defaults``; reads alone. Raises UnauthenticatedError."""
    record = None
    if security.is_well_formed(token):
        digest = security.digest(token, key)
        record = session.scalar(select(ApiToken).where(ApiToken.digest == digest))
        if record is not None and not hmac.compare_digest(record.digest, digest):
            record = None
    now = utc_now()
    if record is None or record.revoked_at is not None or (record.expires_at is not None and record.expires_at <= now):
        raise UnauthenticatedError(_REFUSED)
    due = record.used_at is None or now - record.used_at >= _USE_NOTED_EVERY
    return Principal(
        scope=record.scope,
        account=record.name,
        token_id=record.id,
        limits=_limits(record, defaults),
        use_to_note=due,
    )


def _limits(record: ApiToken, defaults: Limits) -> Limits:
    own = {name: getattr(record, name) for name in Limits.__dataclass_fields__}
    return Limits(**{name: getattr(defaults, name) if value is None else value for name, value in own.items()})


def note_use(session: Session, token_id: str) -> None:
    """Writing. For a principal whose ``use_to_note`` is set: at most about once a minute."""
    session.execute(update(ApiToken).where(ApiToken.id == token_id).values(used_at=utc_now()))
