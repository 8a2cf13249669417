"""Rows of `bench.methods` that were measured at different times make one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import methods_table
from bench.methods_table import least, results_of, with_earlier_rows


def row(
    way: str = "clead",
    seed: int = 0,
    *,
    model: str = "m@1",
    budget: float = 500.0,
    seconds: float = 480.0,
    on: str = "x86_64",
    **attacks: tuple[int, float],
) -> dict[str, Any]:
    found = {
        name: {"images": images, "robust_accuracy": accuracy, "ci95": [0, 1]}
        for name, (images, accuracy) in attacks.items()
    }
    told = {"way": way, "fraction": 1.0, "seed": seed, "budget": budget, "model": model, "on": on}
    return told | {"training_seconds": seconds, "attacks": found}


def report(*rows: dict[str, Any], preset: str = "quick", images: int = 10_000) -> dict[str, Any]:
    options = {"dataset": "cifar10-jpg", "preset": preset, "images": images}
    return {"options": options, "rows": list(rows)}


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods_table, "RESULTS", tmp_path)
    rows = row(pgd=(1000, 0.2), autoattack=(1000, 0.1)), row("rocl", pgd=(1000, 0.1))
    (tmp_path / "methods-cifar10-jpg.json").write_text(json.dumps(report(*rows)))


@pytest.mark.usefixtures("earlier")
def test_other_rows_and_attacks_with_more_images_stay() -> None:
    first, second, third = with_earlier_rows(report(row(pgd=(1000, 0.2), autoattack=(100, 0.15)), row(seed=1)))["rows"]
    assert first == row(pgd=(1000, 0.2), autoattack=(1000, 0.1))
    assert second["way"] == "rocl" and third == row(seed=1)


@pytest.mark.usefixtures("earlier")
@pytest.mark.parametrize("trained", [{"model": "m@2"}, {"seconds": 7600.0}])
def test_another_training_takes_the_place_of_the_row(trained: dict[str, Any]) -> None:
    """In a home of its own a model's name says nothing about which training it is of."""
    anew = row(**trained, on="a GPU", pgd=(1000, 0.3))
    assert with_earlier_rows(report(anew))["rows"][0] == anew


@pytest.mark.usefixtures("earlier")
def test_a_model_keeps_the_machine_that_trained_it() -> None:
    again = report(row(pgd=(2000, 0.2), on="a GPU"), row(model="m@2", seed=1, pgd=(1000, 0.2), on="a GPU"))
    assert [found["on"] for found in with_earlier_rows(again)["rows"]] == ["x86_64", "x86_64", "a GPU"]


@pytest.mark.usefixtures("earlier")
def test_what_was_trained_for_longer_is_another_row() -> None:
    assert [found["budget"] for found in with_earlier_rows(report(row(budget=3000.0)))["rows"]] == [500, 500, 3000]


@pytest.mark.usefixtures("earlier")
@pytest.mark.parametrize("other", [{"preset": "small"}, {"images": 50_000}])
def test_what_was_trained_by_another_preset_or_on_other_images_is_left_out(other: dict[str, Any]) -> None:
    assert with_earlier_rows(report(row("trades"), **other))["rows"] == [row("trades")]


@pytest.mark.usefixtures("earlier")
def test_each_preset_has_a_file_of_its_own() -> None:
    results_of("cifar10-jpg", "small").write_text(json.dumps(report(row("trades"), preset="small")))
    assert [found["way"] for found in with_earlier_rows(report(row(), preset="small"))["rows"]] == ["trades", "clead"]
    assert results_of("cifar10-jpg", "quick").name == "methods-cifar10-jpg.json"


def test_rows_are_ordered_by_what_attacked_all_their_images() -> None:
    assert least(row(pgd=(1000, 0.2), fgsm=(1000, 0.3), autoattack=(100, 0.1))) == 0.2
