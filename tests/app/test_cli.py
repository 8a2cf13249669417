"""What the `clead` command prints, and how it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import cli
from app.settings import Settings
from tests.servers import free_port


def test_it_starts_without_what_only_some_commands_need() -> None:
    """`clead --help`, and a worker's command before the worker: torch alone would be most of their time."""
    script = "import sys; import app.cli; print({'torch', 'numpy', 'alembic', 'fastapi', 'uvicorn'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_settings_that_are_piped_are_whole(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    answer = CliRunner().invoke(cli, ["settings"], env={"CLEAD_HOME": str(home)})
    assert answer.exit_code == 0
    lines = {line.split()[0]: line for line in answer.output.splitlines()}
    assert {f"CLEAD_{name.upper()}" for name in Settings.model_fields} <= lines.keys()
    assert f"{home}/clead.db" in lines["CLEAD_DATABASE_URL"] and "…" not in answer.output


@pytest.mark.parametrize("command", ["settings", "serve", "migrate"])
def test_a_wrong_setting_is_named(command: str) -> None:
    answer = CliRunner().invoke(cli, [command], env={"CLEAD_LOG_LEVEL": "hunter2"})
    assert answer.exit_code == 2
    assert answer.output.startswith("error: CLEAD_LOG_LEVEL: Input should be 'debug'")
    assert "hunter2" not in answer.output


def test_settings_that_do_not_fit_together_are_named() -> None:
    answer = CliRunner().invoke(cli, ["settings"], env={"CLEAD_HEARTBEAT_SECONDS": "100"})
    assert answer.exit_code == 2
    assert answer.output.startswith("error: CLEAD_LEASE_SECONDS must be at least twice CLEAD_HEARTBEAT_SECONDS")


def test_a_service_that_is_not_there_is_named_with_how_to_name_another() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    answer = CliRunner().invoke(cli, ["evaluate", "m@1", "--dataset", "digits", "--url", url])
    assert answer.exit_code == 1
    said = " ".join(answer.output.split())
    assert f"no answer from {url}/evaluate" in said and "--url or CLEAD_URL" in said
