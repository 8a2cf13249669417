"""docker/database_password.py: a password is made or taken once. How it is changed is tested in test_stack.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sqlalchemy.engine import make_url

SCRIPT = Path(__file__).parents[2] / "docker" / "database_password.py"


def make(folder: Path, *, password: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "make", "--folder", str(folder)]
    environment = os.environ | {"POSTGRES_PASSWORD": password}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True)


def kept(folder: Path) -> str:
    """The password, which is the same in both files."""
    password = (folder / "postgres_password").read_text()
    url = make_url((folder / "clead_database_url").read_text())
    assert url.password == password
    assert (url.username, url.host, url.database) == ("clead", "postgres", "clead")
    return password


def test_a_random_password_is_made_once_and_not_shown(tmp_path: Path) -> None:
    done = make(tmp_path)
    password = kept(tmp_path)
    assert len(password) >= 32 and password not in done.stdout + done.stderr
    make(tmp_path)
    assert kept(tmp_path) == password
    other = tmp_path / "other"
    other.mkdir()
    make(other)
    assert kept(other) != password


def test_a_given_password_is_taken_at_the_first_start_alone(tmp_path: Path) -> None:
    make(tmp_path, password="p@ss/w:rd %1")
    assert kept(tmp_path) == "p@ss/w:rd %1"
    make(tmp_path)
    make(tmp_path, password="another one")
    assert kept(tmp_path) == "p@ss/w:rd %1", "the database has not been told"
