"""The registry's entries are all there for whoever asks, however many ask at once."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from models.registry import Registry, UnknownNameError


def package(folder: Path, name: str, *, files: int = 3) -> None:
    """Entries that take a while to import, as those that bring torch along do; each asks while it is imported."""
    home = folder / name
    home.mkdir()
    (home / "__init__.py").write_text("from models.registry import Registry\nTHINGS = []\n")
    for number in range(files):
        text = f"import time\nfrom {name} import THINGS\ntime.sleep(0.05)\nTHINGS[0].add('{number}', {number})\n"
        (home / f"file{number}.py").write_text(text + "assert 'none' not in THINGS[0]\n")


def test_threads_that_ask_at_once_all_find_every_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "things_of_a_test")
    monkeypatch.syspath_prepend(tmp_path)
    things: Registry[int] = Registry("thing", package="things_of_a_test")
    __import__("things_of_a_test").THINGS.append(things)
    found: list[list[str]] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        found.append(list(things))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["0", "1", "2"]] * 8
    with pytest.raises(UnknownNameError, match="unknown thing 'x'; known: 0, 1, 2"):
        things["x"]


def test_a_file_that_cannot_be_imported_is_told_to_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "broken_things_of_a_test", files=0)
    (tmp_path / "broken_things_of_a_test" / "broken.py").write_text("raise RuntimeError('not today')")
    monkeypatch.syspath_prepend(tmp_path)
    things: Registry[int] = Registry("thing", package="broken_things_of_a_test")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="not today"):
            list(things)
    assert "broken_things_of_a_test.broken" not in sys.modules


def test_entries_bring_along_nothing_that_few_jobs_need() -> None:
    """Every process of the service reads the registries; scikit-learn alone would be a third of its start."""
    code = (
        "import sys; from models.attacks.spec import ATTACKS; from models.methods.spec import METHODS;"
        "print(len(list(METHODS)) > 10, len(list(ATTACKS)) > 5, {'sklearn', 'scipy', 'torch._dynamo'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True True set()"
