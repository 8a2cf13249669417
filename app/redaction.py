"""Masks secrets in text that people read: passwords in URLs, tokens, headers.

A second line of defence for logs and listings; the first is not to write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote

MASK = "***"
SHORTEST_SECRET = 8
"""A shorter one is masked where its surroundings give it away, not wherever its letters occur in a word."""

_LONGEST = 1000  # bounds the work on a hostile line
# scheme://user:password@host. The password may hold what should have been percent-encoded; a port is none.
_URL_PASSWORD = re.compile(rf"(://[^\s/@:\[]*:)(?!\d{{1,5}}(?:[/?#\s,;'\"]|$))(\S{{1,{_LONGEST}}})@")
_PATTERNS = (
    (_URL_PASSWORD, rf"\1{MASK}@"),
    (re.compile(r"clead_[0-9A-Za-z]{20,}"), f"clead_{MASK}"),
    (re.compile(r"(?i)\b(bearer)(\s+)[\w.~+/=-]{8,}"), rf"\1\2{MASK}"),
    # A header as text (Cookie: …) or in a listing of Python's ((b'cookie', b'…')).
    (
        re.compile(r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key)(['\"]?\s*[:,]\s*b?['\"]?)[^\r\n'\"]+"),
        rf"\1\2{MASK}",
    ),
    (re.compile(r"(?i)\b(\w*(?:password|passwd|secret|secret_key|token)=['\"]?)[^\s&;,'\")]+"), rf"\1{MASK}"),
    (
        re.compile(r"(?i)(['\"]\w*(?:password|passwd|secret|secret_key)['\"]\s*[:=]\s*)(['\"])[^'\"]+\2"),
        rf"\1\2{MASK}\2",
    ),
)


class Redactor:
    """Masks what looks like a secret, and ``secrets`` wherever they occur."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in (secret, unquote(secret)) if len(form) >= SHORTEST_SECRET}
        longest_first = sorted(forms, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if forms else None

    def __call__(self, text: str) -> str:
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return self._known.sub(MASK, text) if self._known else text


def url_password(url: str) -> str | None:
    """The password in ``url`` as it is written there."""
    found = _URL_PASSWORD.search(url)
    return found.group(2) if found else None
