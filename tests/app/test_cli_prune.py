"""`clead prune` as it is typed."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from app.cli import cli
from app.cli_prune import parse_age
from app.services.prune import SAFETY_AGE
from app.settings import Settings
from app.storage import Storage
from migrations import upgrade


def test_ages() -> None:
    assert parse_age("36h") == timedelta(hours=36)
    assert parse_age("2w") == timedelta(days=14)
    for text in ("", "14", "d", "-1d", "1.5d", "1 d", "9999999d"):
        with pytest.raises(typer.BadParameter):
            parse_age(text)


def test_a_dry_run_says_what_the_run_then_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(home=tmp_path)
    upgrade(settings)
    artifact = Storage(settings.storage_url).put_bytes(b"x" * 2000)
    path = tmp_path / "storage" / artifact.sha256[:2] / artifact.sha256
    os.utime(path, (time.time() - 90_000,) * 2)
    monkeypatch.setenv("CLEAD_HOME", str(tmp_path))

    def run(*options: str) -> str:
        answer = CliRunner().invoke(cli, ["prune", *options])
        assert answer.exit_code == 0, answer.output
        return answer.output

    everything = ["--unreferenced", "--checkpoints-older-than", "14d", "--examples-older-than", "90d"]
    everything += ["--idempotency-keys-older-than", "30d"]
    assert "unreferenced: would remove 1 files of 0 jobs, 2.0 kB" in run(*everything, "--dry-run")
    assert path.exists()
    told = run(*everything)
    assert [line.partition(":")[0] for line in told.splitlines()] == [
        "checkpoints", "examples", "idempotency keys", "unreferenced",
    ]  # fmt: skip
    assert "unreferenced: removed 1 files of 0 jobs, 2.0 kB" in told
    assert not path.exists()


def test_it_asks_what_to_prune_and_refuses_an_age_that_is_none() -> None:
    assert CliRunner().invoke(cli, ["prune"]).exit_code == 2
    assert CliRunner().invoke(cli, ["prune", "--examples-older-than", "soon"]).exit_code == 2


def test_its_help_tells_the_age_of_what_it_takes() -> None:
    said = CliRunner().invoke(cli, ["prune", "--help"], env={"COLUMNS": "200"}).output
    assert f"files older than {SAFETY_AGE / timedelta(hours=1):.0f} h" in said
