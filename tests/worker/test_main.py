"""A worker that cannot work says so and ends; one that only has to wait starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from app.folders import LOCK
from app.records.session import Database
from app.serve import _start_worker, _stop_worker
from app.settings import Settings
from migrations import upgrade
from tests.servers import wait_for


def test_a_worker_starts_without_torch() -> None:
    """Which would be most of its time and memory: it is the job's own process that computes."""
    script = "import sys; import worker.main, worker.reaper; print({'torch', 'numpy', 'PIL'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_a_worker_refuses_a_newer_schema_in_one_line(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    upgrade(settings)
    database = Database(settings.database_url)
    with database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    command = [sys.executable, "-m", "worker.main"]
    ended = subprocess.run(
        command, env=os.environ | {"CLEAD_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1
    line = ended.stderr.splitlines()[-1]
    assert "not starting" in line and "9999" in line and "a newer one" in line
    assert "Traceback" not in ended.stderr


def test_a_worker_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    upgrade(settings)
    for root in (settings.work_dir, settings.arriving_dir):
        (root / "left").mkdir(parents=True)
        (root / "left" / LOCK).touch()
    command = [sys.executable, "-m", "worker.main", "--embedded"]  # which ends with its stdin
    ended = subprocess.run(
        command, env=os.environ | {"CLEAD_HOME": str(tmp_path)}, input="", capture_output=True, text=True, timeout=120
    )
    assert ended.stderr.count("removed left") == 2
    assert not [*settings.work_dir.iterdir(), *settings.arriving_dir.iterdir()]


def test_an_embedded_worker_shows_no_secret_file_in_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "clead_database_url").write_text(f"sqlite:///{tmp_path}/hunter2.db")
    monkeypatch.setenv("CLEAD_SECRETS_DIR", str(secrets))
    settings = Settings(home=tmp_path)
    upgrade(settings)
    assert (tmp_path / "hunter2.db").exists()
    worker = _start_worker(settings)
    try:
        wait_for(lambda: "CLEAD_HOME" in environment_of(worker.pid), what="the worker's own environment")
        assert "hunter2" not in environment_of(worker.pid)
        database = Database(settings.database_url)
        wait_for(lambda: seen(database), what="the worker in that database")
        database.close()
    finally:
        _stop_worker(worker, seconds=30)


def environment_of(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text()


def seen(database: Database) -> bool:
    with database.session() as session:
        return bool(session.scalar(text("SELECT count(*) FROM workers")))
