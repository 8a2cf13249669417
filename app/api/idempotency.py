"""Creating requests that may be sent twice create once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from app.api.dependencies import Resources
from app.services.idempotency import fingerprint, replay_or_store
from app.services.tokens import Principal


def once(
    opened: Resources,
    create: Callable[[Session], dict[str, Any]],
    *,
    asking: Principal,
    scope: str,
    key: str | None,
    body: Any,
) -> tuple[dict[str, Any], bool]:
    """The response of ``create`` in a writing transaction, or the first one that ``key`` got in ``scope``.

    Each account has its own keys.

    Returns ``(response, replayed)``. ConflictError if the key came with another body.
    """
    scope = scope if asking.account is None else f"{scope} as {asking.account}"
    with opened.database.writing() as session:
        return replay_or_store(session, lambda: create(session), scope=scope, key=key, fingerprint=fingerprint(body))
