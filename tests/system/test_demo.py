"""`clead demo`, whole: the numbers that it promises, and what it leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from app.demo import run as demo
from tests.app.scripted import scripted
from tests.servers import wait_for


@pytest.mark.timeout(1500)
def test_the_demo_keeps_its_promises(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app.cli", "demo", "--home", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=1400)
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    rows = {row["method"]: row for row in report["rows"]}
    assert list(rows) == ["standard", "clead", "pgd-at"]
    assert rows["standard"]["clean"] >= 0.95 and rows["standard"]["pgd"] <= 0.05
    assert rows["clead"]["clean"] >= 0.93 and rows["clead"]["pgd"] >= 0.35
    assert rows["pgd-at"]["pgd"] >= 0.50
    for row in rows.values():
        assert {"method", "model", "clean", "fgsm", "pgd", "cw-linf", "seconds"} <= row.keys()
        assert row["pgd-100"] <= row["pgd"] <= row["fgsm"] <= row["clean"]
    protocol = report["protocol"]
    assert (protocol["threat_model"], protocol["eps"], protocol["steps"], protocol["images"]) == (
        "white-box",
        0.2,
        20,
        360,
    )

    answers = report["classify"]
    assert {entry["method"] for entry in answers} == {"standard", "clead"}
    standard = [entry for entry in answers if entry["method"] == "standard"]
    assert all(entry["clean"]["label"] == entry["label"] for entry in standard), "attacked images were right before"
    assert all(entry["adversarial"]["label"] != entry["label"] for entry in standard), "and wrong afterwards"

    html = (tmp_path / "report.html").read_text()
    assert html.count("data:image/png;base64,") == 3 * len(answers)
    assert "white box" in (tmp_path / "report.md").read_text().lower()

    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and "was run before" in again.stdout
    assert json.loads((tmp_path / "report.json").read_text())["job"] == report["job"]


def test_a_demo_that_is_ended_leaves_no_process(tmp_path: Path) -> None:
    demo = subprocess.Popen([sys.executable, "-m", "app.cli", "demo", "--home", str(tmp_path)])
    log = tmp_path / "service.log"
    wait_for(lambda: log.exists() and "runs in process" in log.read_text(), seconds=120)
    assert len(mentioning(tmp_path)) >= 4  # the demo, the service, its worker, the job's child
    demo.terminate()
    assert demo.wait(timeout=60) != 0
    assert mentioning(tmp_path) == []


FAILED = {"id": "j", "status": "failed", "children": [], "result": None, "error": {"detail": "no disk"}}


@pytest.mark.parametrize(
    ("ends", "says"),
    [([(200, FAILED)], "the job ended as failed: no disk"), ([], "disconnected(.|\n)*service.log")],
    ids=["job", "service"],
)
def test_a_demo_that_cannot_go_on_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: list[Any], says: str
) -> None:
    queued = FAILED | {"status": "queued"}
    begins = [(200, {}), (200, {"version": "1"}), (202, queued), (200, queued)]
    with scripted([*begins, *ends]) as url:
        monkeypatch.setattr(demo, "service", lambda _: nullcontext(url))
        with pytest.raises(demo.DemoError, match=says):
            demo.run(tmp_path, seed=0, fresh=False, console=Console(quiet=True))


def mentioning(folder: Path) -> list[str]:
    """Command lines of the processes that have the folder's name in theirs, or in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = ((process / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:  # it has just ended, or is nobody's to look at
            continue
        if str(folder).encode() in command + environment:
            found.append(command.replace(b"\0", b" ").decode())
    return found
