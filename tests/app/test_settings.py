"""Options from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings


def test_the_urls_lie_below_home_unless_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEAD_HOME", str(tmp_path / "x"))
    monkeypatch.setenv("CLEAD_BROKER_URL", "redis://broker/1")
    settings = Settings()
    assert settings.database_url == f"sqlite:///{tmp_path}/x/clead.db"
    assert settings.storage_url == f"file://{tmp_path}/x/storage"
    assert settings.broker_url == "redis://broker/1"


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(home=Path("here")).home == tmp_path / "here"


@pytest.mark.parametrize("beat", ["heartbeat_seconds", "reaper_seconds"])
def test_a_lease_shorter_than_two_beats_is_refused(beat: str) -> None:
    beats = {"heartbeat_seconds": 0.1, "reaper_seconds": 0.1}
    with pytest.raises(ValidationError, match=f"CLEAD_LEASE_SECONDS must be at least twice CLEAD_{beat.upper()}"):
        Settings(lease_seconds=1, **{**beats, beat: 0.6})
    assert Settings(lease_seconds=1, **{**beats, beat: 0.5}).lease_seconds == 1


def test_every_option_is_described_and_passwords_are_masked() -> None:
    settings = Settings(database_url="postgresql+psycopg://me:hunter2@host/db")
    rows = settings.described()
    assert {row[0] for row in rows} == {f"CLEAD_{name.upper()}" for name in Settings.model_fields}
    assert all(row[3] for row in rows)
    assert "hunter2" not in str(rows) and "postgresql+psycopg://me:***@host/db" in str(rows)


def test_passwords_are_masked_in_every_form_of_a_url() -> None:
    for url in ("redis://:hunter2@host/0", "redis://:p%40hunter2%2Fx@host/0", "rediss://me:a@hunter2/b@host/0"):
        row = next(row for row in Settings(broker_url=url).described() if row[0] == "CLEAD_BROKER_URL")
        assert "hunter2" not in str(row) and row[1].endswith(":***@host/0")


def test_a_wrong_value_is_refused_without_telling_the_others() -> None:
    with pytest.raises(ValidationError, match="twice CLEAD_HEARTBEAT_SECONDS") as refused:
        Settings(broker_url="redis://:hunter2@host/0", lease_seconds=1, heartbeat_seconds=1)
    assert "hunter2" not in str(refused.value)


def test_files_of_the_secrets_folder_set_what_neither_arguments_nor_the_environment_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clead_database_url").write_text("postgresql+psycopg://clead:hunter2@postgres/clead\n")
    (tmp_path / "clead_secret_key").write_text("a key\n")
    (tmp_path / "clead_broker_url").write_text("redis://of-the-file/0")
    (tmp_path / "postgres_password").write_text("hunter2")
    monkeypatch.setenv("CLEAD_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("CLEAD_BROKER_URL", "redis://of-the-environment/0")
    monkeypatch.setenv("CLEAD_SECRET_KEY", "")
    settings = Settings()
    assert settings.database_url == "postgresql+psycopg://clead:hunter2@postgres/clead"
    assert settings.secret_key.get_secret_value() == "a key", "an empty variable is none"
    assert settings.broker_url == "redis://of-the-environment/0"
    assert Settings(database_url="sqlite:///x.db").database_url == "sqlite:///x.db"


def test_a_secrets_folder_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEAD_SECRETS_DIR", str(tmp_path / "missing"))
    with pytest.raises(ValueError, match="missing is no folder"):
        Settings()
