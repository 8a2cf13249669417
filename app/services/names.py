"""The names that jobs register their models under: given, or made from what the job does."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from sqlalchemy.orm import Session

from app.errors import InvalidSpecError
from app.services import models
from app.services.tokens import Principal

LONGEST = 100
_FOREIGN = re.compile(r"[^A-Za-z0-9._-]+")


def take(
    session: Session,
    given: str | None,
    *,
    default: str,
    asking: Principal,
    field: str,
    names: Callable[[str], Sequence[str]] = lambda name: [name],
    longest: int = LONGEST,
) -> str:
    """Writing. The name that was given, or one of ours, with all ``names`` made from it reserved for the account.

    Where nothing was given and the default is another account's, ours holds the account. InvalidSpecError, with
    ``field`` as its pointer, if others have the name.
    """
    candidates = (
        [given] if given is not None else [default[:longest], _with_account(default[:longest], asking, longest=longest)]
    )
    for candidate in candidates:
        taken = [name for name in names(candidate) if not models.reserve(session, name, asking=asking)]
        if not taken:
            return candidate
    detail = f"the model {taken[0]!r} belongs to others; give another name"
    raise InvalidSpecError(f"{field}: {detail}", errors=[{"pointer": field, "detail": detail}])


def _with_account(default: str, asking: Principal, *, longest: int) -> str:
    account = _FOREIGN.sub("-", asking.account or "").strip("-")[: longest // 2]
    return f"{default[: longest - 1 - len(account)]}-{account}"
