"""`bench.methods_autoattack` attacks the models of the table's rows, and no others, while others write rows."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from signal import SIGTERM, getsignal, signal
from typing import Any

import pytest

from app.records import Job
from app.records.session import Database
from app.services import models as registry
from app.settings import Settings
from app.storage import Storage
from bench import methods_autoattack, methods_table
from bench.methods_table import PAGE, read, rewrite
from migrations import upgrade
from models.checkpoints import save_model
from models.networks import ImageModel
from tests.app.api.conftest import make_model

DIGITS = (1, 8, 8)


class Home:
    """A registry of models and of the jobs that made them, as `bench.methods` leaves it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._settings = Settings(home=folder / "service")
        upgrade(self._settings)
        self._database = Database(self._settings.database_url)

    def add(self, name: str, network: ImageModel, *, kind: str, seconds: float, **spec: str) -> str:
        path = self.folder / "weights"
        save_model(path, network)
        artifact = Storage(self._settings.storage_url).put_file(path)
        card = network.card.model_dump(mode="json")
        with self._database.writing() as session:
            job = Job(kind=kind, status="succeeded", spec=spec, result={"seconds": seconds})
            session.add(job)
            session.flush()
            version = registry.register_version(
                session, name=name, sha256=artifact.sha256, size=artifact.size, card=card, job_id=job.id
            )
            return version.reference


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    page = tmp_path / "results.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(methods_table, "RESULTS", tmp_path)
    monkeypatch.setattr(methods_table, "PAGE", page)
    before = getsignal(SIGTERM)
    yield
    signal(SIGTERM, before)


def row(way: str, model: str, *, training: float, probe: float = 0.0) -> dict[str, Any]:
    found = {"images": 360, "robust_accuracy": 0.1, "ci95": [0.0, 0.2]}
    told = {"way": way, "fraction": 1.0, "seed": 0, "budget": 30.0, "model": model, "on": "x86_64"}
    told |= {"training_seconds": training, "probe_seconds": probe, "precision": "float32"}
    return told | {"clean": {"images": 360, "accuracy": 0.1, "ci95": [0.0, 0.2]}, "attacks": {"pgd": found}}


def write(*rows: dict[str, Any]) -> None:
    report = {"options": {"dataset": "digits", "preset": "quick", "images": 1437}, "rows": list(rows)}
    rewrite("digits", "quick", lambda _: report)


def test_a_model_of_the_rows_name_from_another_training_is_left_out_and_rows_of_others_stay(
    home: Home, files: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(shape=DIGITS)
    same = home.add("standard", model, kind="train", seconds=30.25)
    other = home.add("pgd-at", model, kind="train", seconds=29.75)
    mine = row("standard", same, training=30.25), row("pgd-at", other, training=61.5), row("fat", "fat@1", training=9.0)
    write(*mine)
    theirs = row("trades", "trades@1", training=30.0)
    writer = threading.Thread(target=_write_while_it_attacks, args=(theirs,))
    options = ["--home", str(home.folder), "--images", "2", "--processes", "1", "--only", "standard", "pgd-at", "fat"]
    monkeypatch.setattr(sys, "argv", ["methods_autoattack", *options])
    writer.start()
    methods_autoattack.main()
    writer.join()
    attacked, *others = read("digits", "quick")["rows"]
    assert others == [*mine[1:], theirs]
    found = attacked["attacks"].pop("autoattack")
    assert attacked == mine[0] and found["images"] == 2
    printed = capsys.readouterr().out
    assert "left out: pgd-at@1 is another model here: its training took 29.8 s, the row's 61.5 s" in printed
    assert "left out: there is no model 'fat@1'" in printed


def _write_while_it_attacks(added: dict[str, Any]) -> None:
    """Another process' row, once the attacks have begun; the process that attacks takes seconds to start."""
    while not active_children():
        time.sleep(0.01)
    rewrite("digits", "quick", lambda report: report | {"rows": [*report["rows"], added]})


def test_all_stages_of_a_way_count_once(home: Home) -> None:
    """A row's seconds are those of every training that led to its model, and its probes' beside them."""
    encoder, classifier = make_model(kind="encoder", shape=DIGITS), make_model(shape=DIGITS)
    first = home.add("dynacl", encoder, kind="pretrain", seconds=18.125)
    second = home.add("second", encoder, kind="train", seconds=12.5, init=first, base_model=first)
    probed = home.add("probe", classifier, kind="probe", seconds=2.5, model=second)
    place = home.folder / "service"
    methods_autoattack.check_training(place, row("dynacl", probed, training=30.625, probe=2.5))
    for training, probe in ((30.625, 2.25), (30.5, 2.5)):
        with pytest.raises(methods_autoattack.NotFoundError, match="another model here"):
            methods_autoattack.check_training(place, row("dynacl", probed, training=training, probe=probe))


def test_without_rows_there_is_nothing_to_attack(
    tmp_path: Path, files: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["methods_autoattack", "--home", str(tmp_path)])
    with pytest.raises(SystemExit):
        methods_autoattack.main()
    assert "there are no rows in" in capsys.readouterr().err
    assert not (tmp_path / "methods-digits.json").exists()
