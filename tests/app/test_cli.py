"""What the `clead` command prints, and how it fails."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app import client as client_module
from app.cli import cli
from app.settings import Settings
from tests.app.scripted import scripted
from tests.servers import free_port

EVALUATE = ["evaluate", "m@1", "--dataset", "digits"]
QUEUED = {"id": "j", "status": "queued", "progress": None, "error": None, "result": None}
BROKEN = QUEUED | {"status": "failed", "error": {"detail": "no image [/x] was left"}}


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
    answer = CliRunner().invoke(cli, [*EVALUATE, "--url", url])
    assert answer.exit_code == 1
    said = " ".join(answer.output.split())
    assert f"no answer from {url}/evaluate" in said and "--url or CLEAD_URL" in said


def test_an_evaluation_is_followed_through_busy_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", slept.append)
    busy = {"detail": "too many requests"}
    answers = [(202, QUEUED), (429, busy, {"Retry-After": "7"}), (503, busy), (200, QUEUED), (200, BROKEN)]
    with scripted(answers) as url:
        answer = CliRunner().invoke(cli, [*EVALUATE, "--url", url])
    assert answer.exit_code == 1
    assert answer.output.strip() == "error: failed: no image [/x] was left"
    assert slept == [7, 1, 1]


@pytest.mark.parametrize(
    "answers", [[(202, QUEUED)], [(202, QUEUED), (404, {"detail": "there is no job 'j'"})]], ids=["gone", "refused"]
)
def test_a_service_that_fails_meanwhile_ends_an_evaluation_in_one_line(answers: list[Any]) -> None:
    with scripted(answers) as url:
        answer = CliRunner().invoke(cli, [*EVALUATE, "--url", url])
    assert answer.exit_code == 1 and isinstance(answer.exception, SystemExit)
    assert answer.output.startswith("error: no answer from" if len(answers) == 1 else "error: there is no job 'j'")


@pytest.mark.parametrize(("options", "sent"), [([], {}), (["--eps", "4/255"], {"eps": "4/255"})])
def test_an_attack_has_its_own_radius_unless_one_is_given(options: list[str], sent: dict[str, str]) -> None:
    """Linf's 8/255 as the radius of an l2 ball would say next to nothing, and a noise has no ball."""
    asked: list[bytes] = []
    with scripted([(202, QUEUED), (200, BROKEN)], asked=asked) as url:
        CliRunner().invoke(cli, [*EVALUATE, *options, "--attack", "cw-l2", "--attack", "pgd", "--url", url])
    assert json.loads(asked[0])["attacks"] == [{"name": "cw-l2"} | sent, {"name": "pgd"} | sent]


def test_classify_prints_k_labels_as_they_are_called(tmp_path: Path) -> None:
    picture = tmp_path / "[b]cat.png"
    picture.write_bytes(b"")
    best = [{"label": "cat[/x]", "probability": 0.75}, {"label": "[dog]", "probability": 0.125}]
    right = {"filename": picture.name, "error": None, "top_k": best}
    wrong = {"filename": "[/y]", "error": {"detail": "no [/z] picture"}, "top_k": []}
    with scripted([(200, {"predictions": [right, wrong]})]) as url:
        answer = CliRunner().invoke(cli, ["classify", str(picture), "--top-k", "2", "--url", url])
    assert answer.exit_code == 0, answer.output
    assert [line.split() for line in answer.output.splitlines()[1:]] == [
        ["[b]cat.png", "cat[/x]", "0.750"],
        ["[b]cat.png", "[dog]", "0.125"],
        ["[/y]", "no", "[/z]", "picture"],
    ]


def test_what_an_evaluation_says_is_no_markup() -> None:
    attack = {"name": "pgd[/x]", "ci95": [0.1, 0.2], "robust_accuracy": 0.15, "success_rate": None, "seconds": 1.0}
    result = {
        "model": "m@1",
        "clean_accuracy": 0.9,
        "attacks": [attack],
        "warnings": [{"code": "c", "detail": "d[/x]", "advice": "a[/x]"}],
        "requirements": [{"attack": "pgd[/x]", "need": ">=0.1", "got": 0.15, "met": True}],
    }
    with scripted([(202, QUEUED), (200, QUEUED | {"status": "succeeded", "result": result})]) as url:
        answer = CliRunner().invoke(cli, [*EVALUATE, "--url", url])
    assert answer.exit_code == 0, answer.output
    assert answer.output.count("[/x]") == 4


def test_a_tokens_name_is_no_markup(tmp_path: Path) -> None:
    environment = {"CLEAD_HOME": str(tmp_path)}
    made = CliRunner().invoke(cli, ["token", "create", "--scope", "submit", "--name", "q[/x]"], env=environment)
    assert made.exit_code == 0 and made.stdout.startswith("clead_") and "q[/x]" in made.stderr
    listed = CliRunner().invoke(cli, ["token", "list"], env=environment)
    assert listed.exit_code == 0 and "q[/x]" in listed.output
    token_id = re.findall(r"[0-9a-f]{32}", listed.output)[0]
    revoked = CliRunner().invoke(cli, ["token", "revoke", token_id], env=environment)
    assert revoked.exit_code == 0 and "q[/x]" in revoked.output
    unknown = CliRunner().invoke(cli, ["token", "revoke", "[/x]"], env=environment)
    assert unknown.exit_code == 1 and "[/x]" in unknown.output
