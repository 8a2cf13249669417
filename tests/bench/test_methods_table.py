"""Rows of `bench.methods` that were measured at different times make one table."""

from __future__ import annotations

import json
import sys
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from bench import methods, methods_table
from bench.methods_table import PAGE, Report, least, read, results_of, rewrite, with_attack, with_earlier_rows

WRITERS, ROWS = 3, 20


def row(
    way: str = "clead",
    seed: int = 0,
    *,
    model: str = "m@1",
    budget: float = 500.0,
    seconds: float = 480.0,
    on: str = "x86_64",
    clean: tuple[int, float] = (1000, 0.4),
    **attacks: tuple[int, float],
) -> dict[str, Any]:
    found = {
        name: {"images": images, "robust_accuracy": accuracy, "ci95": [0, 1]}
        for name, (images, accuracy) in attacks.items()
    }
    told = {"way": way, "fraction": 1.0, "seed": seed, "budget": budget, "model": model, "on": on}
    told |= {"training_seconds": seconds, "probe_seconds": 1.0, "precision": "float32"}
    return told | {"clean": {"images": clean[0], "accuracy": clean[1], "ci95": [0, 1]}, "attacks": found}


def report(*rows: dict[str, Any], dataset: str = "cifar10-jpg", preset: str = "quick", images: int = 10_000) -> Report:
    return {"options": {"dataset": dataset, "preset": preset, "images": images}, "rows": list(rows)}


def earlier() -> Report:
    return report(row(pgd=(1000, 0.2), autoattack=(1000, 0.1)), row("rocl", pgd=(1000, 0.1)))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a page of its own that takes the results."""
    page = tmp_path / "results.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(methods_table, "RESULTS", tmp_path)
    monkeypatch.setattr(methods_table, "PAGE", page)
    return tmp_path


def test_other_rows_and_attacks_with_more_images_stay() -> None:
    again = report(row(pgd=(1000, 0.2), autoattack=(100, 0.15)), row(seed=1))
    first, second, third = with_earlier_rows(again, earlier())["rows"]
    assert first == row(pgd=(1000, 0.2), autoattack=(1000, 0.1))
    assert second["way"] == "rocl" and third == row(seed=1)


@pytest.mark.parametrize("told", [True, False])
def test_accuracy_on_more_clean_images_stays_with_its_attacks(told: bool) -> None:
    """Rows of earlier versions do not tell how many clean images there were: as many as were attacked."""
    before = report(row(clean=(1000, 0.4), pgd=(1000, 0.2)))
    if not told:
        del before["rows"][0]["clean"]["images"]
    fewer = report(row(clean=(200, 0.5), pgd=(200, 0.3)))
    assert with_earlier_rows(fewer, before)["rows"] == [row(clean=(1000, 0.4), pgd=(1000, 0.2))]
    more = report(row(clean=(2000, 0.5), pgd=(2000, 0.3)))
    assert with_earlier_rows(more, before)["rows"] == more["rows"]


@pytest.mark.parametrize("trained", [{"model": "m@2"}, {"seconds": 7600.0}])
def test_another_training_takes_the_place_of_the_row(trained: dict[str, Any]) -> None:
    """In a home of its own a model's name says nothing about which training it is of."""
    anew = row(**trained, on="a GPU", pgd=(1000, 0.3))
    assert with_earlier_rows(report(anew), earlier())["rows"][0] == anew


def test_a_model_keeps_the_machine_that_trained_it() -> None:
    again = report(row(pgd=(2000, 0.2), on="a GPU"), row(model="m@2", seed=1, pgd=(1000, 0.2), on="a GPU"))
    assert [found["on"] for found in with_earlier_rows(again, earlier())["rows"]] == ["x86_64", "x86_64", "a GPU"]


def test_what_was_trained_for_longer_is_another_row() -> None:
    longer = report(row(budget=3000.0))
    assert [found["budget"] for found in with_earlier_rows(longer, earlier())["rows"]] == [500, 500, 3000]


def test_an_attack_comes_into_the_row_of_its_training_alone() -> None:
    found = {"images": 1000, "robust_accuracy": 0.1, "ci95": [0, 1]}
    trained_anew, attacked_by_more = {"seconds": 7600.0}, {"autoattack": (2000, 0.05)}
    for stays in (trained_anew, attacked_by_more):
        assert with_attack(report(row(**stays)), row(), "autoattack", found)["rows"] == [row(**stays)]
    both = report(row("rocl", pgd=(1000, 0.2)), row(pgd=(1000, 0.2)))
    other, meant = with_attack(both, row(), "autoattack", found)["rows"]
    assert other == row("rocl", pgd=(1000, 0.2)) and meant == row(pgd=(1000, 0.2), autoattack=(1000, 0.1))


def test_rows_trained_on_other_images_are_not_replaced() -> None:
    with pytest.raises(ValueError, match="trained on 10,000 images, not on 50,000"):
        with_earlier_rows(report(row("trades"), images=50_000), earlier())


def test_a_run_on_other_images_ends_before_it_trains(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = json.dumps(report(row(), dataset="digits", images=1437))
    (files / "methods-digits.json").write_text(kept)
    monkeypatch.setattr(sys, "argv", ["methods", "--home", str(files / "home"), "--images", "64", "--seconds", "1"])
    with pytest.raises(SystemExit) as ended:
        methods.main()
    assert ended.value.code == 2 and "give --images 1437" in capsys.readouterr().err
    assert (files / "methods-digits.json").read_text() == kept and not list((files / "home").iterdir())


def test_each_preset_has_a_file_of_its_own(files: Path) -> None:
    (files / "methods-cifar10-jpg.json").write_text(json.dumps(earlier()))
    assert read("cifar10-jpg", "small") == {"rows": []}
    small = report(row("trades", pgd=(1000, 0.2)), preset="small")
    assert "| trades |" in rewrite("cifar10-jpg", "small", lambda known: with_earlier_rows(small, known))
    assert read("cifar10-jpg", "small") == small and read("cifar10-jpg", "quick") == earlier()
    assert results_of("cifar10-jpg", "quick").name == "methods-cifar10-jpg.json"


def test_processes_that_write_at_the_same_time_keep_each_others_rows(files: Path) -> None:
    fork = get_context("fork")
    together = fork.Barrier(WRITERS)
    writers = [fork.Process(target=_add_rows, args=(number, together)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    found = read("cifar10-jpg", "quick")["rows"]
    assert sorted(one["seed"] for one in found) == list(range(WRITERS * ROWS))
    page = (files / "results.md").read_text(encoding="utf-8")
    assert all(f"| trades | trained with labels | {one['seed']} |" in page for one in found)


def _add_rows(number: int, together: Barrier) -> None:
    together.wait()
    for seed in range(number * ROWS, (number + 1) * ROWS):
        added = report(row("trades", seed, pgd=(1000, 0.2)))
        rewrite("cifar10-jpg", "quick", lambda known, added=added: with_earlier_rows(added, known))


def test_rows_are_ordered_by_what_attacked_all_their_images() -> None:
    assert least(row(pgd=(1000, 0.2), fgsm=(1000, 0.3), autoattack=(100, 0.1))) == 0.2
