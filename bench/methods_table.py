"""The table of ``bench.methods`` in docs/results.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from bench.machine import RESULTS
from bench.methods_plan import WAYS

Row = dict[str, Any]
PAGE = Path(__file__).parent.parent / "docs" / "results.md"
MARKS = "<!-- bench.methods {table}: begin -->\n", "<!-- bench.methods {table}: end -->\n"


def results_of(dataset: str, preset: str) -> Path:
    """The file of all rows by the preset."""
    return RESULTS / f"methods-{_table(dataset, preset)}.json"


def _table(dataset: str, preset: str) -> str:
    return dataset if preset == "quick" else f"{dataset}-{preset}"


def with_earlier_rows(report: dict[str, Any]) -> dict[str, Any]:
    """The report with the rows that are in its file already, of other ways, fractions, seeds and times of training, and
    with what attacked the same trainings with more images. A model was trained where it was first told of.
    """
    options = report["options"]
    path = results_of(options["dataset"], options["preset"])
    earlier = json.loads(path.read_text()) if path.exists() else {"options": {}, "rows": []}
    if earlier["options"].get("images") != options["images"]:
        return report
    rows = {_key(row): row for row in earlier["rows"]}
    for row in report["rows"]:
        before = rows.get(_key(row), row)
        if all(before[name] == row[name] for name in ("model", "training_seconds")):  # and not trained anew
            row = row | {"on": before["on"], "attacks": _with_most_images(before["attacks"], row["attacks"])}
        rows[_key(row)] = row
    return report | {"rows": list(rows.values())}


def _key(row: Row) -> tuple[str, float, int, float]:
    return row["way"], row["fraction"], row["seed"], row["budget"]


def _with_most_images(*attacks: dict[str, Row]) -> dict[str, Row]:
    merged: dict[str, Row] = {}
    for name, found in (item for one in attacks for item in one.items()):
        if name not in merged or found["images"] >= merged[name]["images"]:
            merged[name] = found
    return merged


def write_table(report: dict[str, Any]) -> str:
    """Put the table between its marks on the page, and answer it."""
    options = report["options"]
    begin, end = (mark.format(table=_table(options["dataset"], options["preset"])) for mark in MARKS)
    table = "\n".join(_lines(report)).rstrip() + "\n"
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(begin)
    _, after = rest.split(end)
    PAGE.write_text(before + begin + table + end + after, encoding="utf-8")
    return table


def _lines(report: dict[str, Any]) -> Iterator[str]:
    """A table for each share of labels and time: the ways by their least accuracy under an attack, a row a seed."""
    every = report["options"]["images"]
    for fraction, budget in sorted(
        {(row["fraction"], row["budget"]) for row in report["rows"]}, key=_largest_share_first
    ):
        rows = [row for row in report["rows"] if (row["fraction"], row["budget"]) == (fraction, budget)]
        names = list(dict.fromkeys(name for row in rows for name in row["attacks"]))
        images = {name: max(row["attacks"].get(name, {"images": 0})["images"] for row in rows) for name in names}
        labels = f"{round(fraction * every):,} of {every:,} images"
        yield f"**{fraction:.0%} of the labels** ({labels}), **{budget:,.0f} s**"
        yield ""
        heads = [f"{name} ({images[name]:,})" for name in names]
        yield f"| way | backbone | seed | clean | {' | '.join(heads)} | training s | probe s | trained on |"
        yield "|---" * (7 + len(names)) + "|"
        for row in _ranked(rows):
            cells = [_cell(row["clean"]["accuracy"], row["clean"]["ci95"])]
            cells += [_attacked(row["attacks"].get(name), images=images[name]) for name in names]
            frozen = "frozen" if WAYS[row["way"]].frozen else "trained with labels"
            seconds = f"{row['training_seconds']:.0f} | {row['probe_seconds']:.0f}"
            where = f"{row['on']}, {row['precision']}"
            yield f"| {row['way']} | {frozen} | {row['seed']} | {' | '.join(cells)} | {seconds} | {where} |"
        yield ""


def _largest_share_first(table: tuple[float, float]) -> tuple[float, float]:
    fraction, budget = table
    return -fraction, budget


def _ranked(rows: list[Row]) -> list[Row]:
    """The best way first, and of each its seeds in their order."""
    ways: dict[str, list[Row]] = {}
    for row in rows:
        ways.setdefault(row["way"], []).append(row)
    ranked = sorted(ways.values(), key=lambda seeds: mean(map(least, seeds)), reverse=True)
    return [row for seeds in ranked for row in sorted(seeds, key=lambda row: int(row["seed"]))]


def least(row: Row) -> float:
    """Accuracy under the strongest of the attacks on all of the row's test images but AutoAttack, which came later."""
    attacks = {name: found for name, found in row["attacks"].items() if name != "autoattack"}
    return float(min(found["robust_accuracy"] for found in attacks.values()))


def _attacked(found: Row | None, *, images: int) -> str:
    if found is None:
        return ""
    cell = _cell(found["robust_accuracy"], found["ci95"])
    return cell if found["images"] == images else f"{cell} of {found['images']}"


def _cell(accuracy: float, interval: list[float]) -> str:
    low, high = interval
    return f"{100 * accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
