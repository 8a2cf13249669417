"""Tokens as text: form, checksum, keyed hash, order of scopes, and the key's file."""

from __future__ import annotations

import hashlib
import hmac
import re
import stat
import threading
import zlib
from pathlib import Path

import pytest

from app.security import SCOPES, allows, digest, is_well_formed, new_token, secret_key
from app.settings import Settings


def test_a_scanner_can_tell_a_token_by_its_form_and_checksum() -> None:
    alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    tokens = {new_token() for _ in range(200)}
    assert len(tokens) == 200
    for token in tokens:
        assert re.fullmatch(r"clead_[0-9A-Za-z]{38}", token)
        value = 0
        for character in token[-6:]:
            value = value * 62 + alphabet.index(character)
        assert value == zlib.crc32(token[6:38].encode())
        assert is_well_formed(token)


@pytest.mark.parametrize("place", [0, 5, 6, 20, 37, 38, 43])
def test_one_wrong_character_is_seen(place: int) -> None:
    token = new_token()
    other = "x" if token[place] != "x" else "y"
    assert not is_well_formed(token[:place] + other + token[place + 1 :])


@pytest.mark.parametrize(
    "text", ["", "clead_", "clead_" + "0" * 38 + "0", "Bearer", "é" * 44, "clead_" + "é" * 38, "\ud800"]
)
def test_other_text_is_no_token(text: str) -> None:
    assert not is_well_formed(text)


def test_the_hash_is_hmac_sha256_under_the_key() -> None:
    token = new_token()
    assert digest(token, b"key") == hmac.new(b"key", token.encode(), hashlib.sha256).hexdigest()
    assert digest(token, b"key") != digest(token, b"other")


def test_each_scope_includes_those_before_it() -> None:
    found = [[allows(held, needed) for needed in SCOPES] for held in SCOPES]
    assert found == [[True, False, False], [True, True, False], [True, True, True]]


def test_the_key_is_made_once_for_its_owner_alone_also_by_many_at_once(tmp_path: Path) -> None:
    settings, keys = Settings(home=tmp_path), []
    threads = [threading.Thread(target=lambda: keys.append(secret_key(settings))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1
    assert len(keys[0]) == 64
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["secret.key"]


def test_a_given_key_is_used_and_never_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEAD_SECRET_KEY", "very-secret")
    settings = Settings(home=tmp_path)
    assert secret_key(settings) == b"very-secret"
    assert not (tmp_path / "secret.key").exists()
    assert "very-secret" not in repr(settings.described()) + repr(settings)
