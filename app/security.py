"""API tokens as text: how they are made, told from typing errors, hashed and ordered by what they allow."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import string
import zlib
from contextlib import suppress
from typing import Literal

from app.settings import Settings

Scope = Literal["classify", "submit", "admin"]
SCOPES: tuple[Scope, ...] = ("classify", "submit", "admin")
"""Each allows what those before it allow: read the registry and infer; run and read jobs; change what others use."""

PREFIX = "clead_"
HINT_LENGTH = len(PREFIX) + 4
_ALPHABET = string.digits + string.ascii_letters
_RANDOM, _CHECK = 32, 6  # characters; 32 of 62 hold 190 bits


def new_token() -> str:
    """A token: ``clead_``, 32 random characters, and 6 that check them.

    The prefix and the checksum let a secret scanner find a leaked token without a false alarm (the form of GitHub's
    tokens), and a mistyped one is refused without a look into the database.
    """
    random = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))
    return PREFIX + random + _checksum(random)


def is_well_formed(token: str) -> bool:
    """Whether the checksum fits, so that the token may have been made here."""
    random, check = token[len(PREFIX) : -_CHECK], token[-_CHECK:]
    if not token.startswith(PREFIX) or len(random) != _RANDOM or not set(random) <= set(_ALPHABET):
        return False
    return check == _checksum(random)


def digest(token: str, key: bytes) -> str:
    """HMAC-SHA256 in hexadecimal digits: without ``key`` a stolen database does not even confirm a guess."""
    return hmac.new(key, token.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def allows(held: str, needed: Scope) -> bool:
    """Whether a token of scope ``held`` may do what takes ``needed``."""
    return SCOPES.index(held) >= SCOPES.index(needed)


def secret_key(settings: Settings) -> bytes:
    """The key of the hashes: ``CLEAD_SECRET_KEY``, else the file ``secret.key`` in the home folder, made when missing.

    Of several processes that make it at once one wins, and all read what that one wrote.
    """
    if given := settings.secret_key.get_secret_value():
        return given.encode()
    path = settings.home / "secret.key"
    if not path.exists():
        settings.home.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".secret.key.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename it does not replace what another process has made meanwhile
        draft.unlink()
    return path.read_text(encoding="ascii").strip().encode()


def _checksum(random: str) -> str:
    value, digits = zlib.crc32(random.encode()), ""
    while value:
        value, place = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[place] + digits
    return digits.rjust(_CHECK, "0")
