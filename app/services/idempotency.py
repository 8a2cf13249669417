"""The same ``Idempotency-Key`` with the same body answers the first response again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from app.errors import ConflictError
from app.records import IdempotencyKey
from app.records.upsert import insert


def fingerprint(body: Any) -> str:
    """SHA-256 of a JSON body; the order of its fields does not matter."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def replay_or_store(
    session: Session,
    create: Callable[[], dict[str, Any]],
    *,
    scope: str,
    key: str | None,
    fingerprint: str,
) -> tuple[dict[str, Any], bool]:
    """Writing. The stored response of ``(scope, key)``, or that of ``create()``, which is stored with it.

    ``create`` runs in this transaction and answers a JSON object. Returns ``(response, replayed)``. Without a key it
    just creates. ConflictError if the key came with another body. Of two requests at once the second waits here until
    the first has committed, and then answers what that one stored.
    """
    if key is None:
        return create(), False
    placeholder = insert(session, IdempotencyKey).values(scope=scope, key=key, fingerprint=fingerprint, response={})
    # RETURNING and not the row count, which PostgreSQL's driver does not tell for an INSERT like this one.
    added = session.scalars(placeholder.on_conflict_do_nothing().returning(IdempotencyKey.key)).first()
    if added is None:
        found = session.get_one(IdempotencyKey, (scope, key))
        if found.fingerprint != fingerprint:
            raise ConflictError(f"Idempotency-Key {key!r} was used with another body; use a new key for a new request")
        return dict(found.response), True
    response = create()
    session.get_one(IdempotencyKey, (scope, key)).response = response
    session.flush()
    return response, False
