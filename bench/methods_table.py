"""The table of ``bench.methods`` in docs/results.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from bench.machine import RESULTS
from bench.methods_plan import WAYS
from models.data.download import exclusive

Row = dict[str, Any]
Report = dict[str, Any]
PAGE = Path(__file__).parent.parent / "docs" / "results.md"
MARKS = "<!-- bench.methods {table}: begin -->\n", "<!-- bench.methods {table}: end -->\n"


def results_of(dataset: str, preset: str) -> Path:
    """The file of all rows by the preset."""
    return RESULTS / f"methods-{_table(dataset, preset)}.json"


def _table(dataset: str, preset: str) -> str:
    return dataset if preset == "quick" else f"{dataset}-{preset}"


def read(dataset: str, preset: str) -> Report:
    """The file of all rows by the preset; without a row if there is none."""
    path = results_of(dataset, preset)
    report: Report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": []}
    return report


def rewrite(dataset: str, preset: str, change: Callable[[Report], Report]) -> str:
    """Put what ``change`` makes of the file's report in its place, and its table, which is answered, on the page.

    Others may write for hours beside this process: one at a time, and each changes what the last one left.
    """
    with exclusive(RESULTS):
        report = change(read(dataset, preset))
        _replace(results_of(dataset, preset), json.dumps(report, indent=2) + "\n")
        return _write_table(report)


def _replace(path: Path, content: str) -> None:
    """The file as it was, or the new one, whenever this process is killed."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(content, encoding="utf-8")
    temporary.replace(path)


def check_images(earlier: Report, images: int) -> None:
    """Raises ValueError if the rows of the file were trained on another number of images: they make no one table."""
    known = earlier["options"]["images"] if earlier["rows"] else images
    if known != images:
        raise ValueError(
            f"the rows of {results_of(earlier['options']['dataset'], earlier['options']['preset'])} were trained on"
            f" {known:,} images, not on {images:,}: give --images {known}, or move that file away"
        )


def with_earlier_rows(report: Report, earlier: Report) -> Report:
    """The report with the earlier one's rows of other ways, fractions, seeds and times of training, and with what
    measured the same trainings with more images. A model was trained where it was first told of.

    Raises ValueError if those were trained on another number of images.
    """
    check_images(earlier, report["options"]["images"])
    rows = {_key(row): row for row in earlier["rows"]}
    for row in report["rows"]:
        before = rows.get(_key(row), row)
        if _same_training(before, row):
            measured = _with_most_images(_measured(before), _measured(row))
            row = row | {"on": before["on"], "clean": measured.pop("clean"), "attacks": measured}
        rows[_key(row)] = row
    return report | {"rows": list(rows.values())}


def with_attack(report: Report, row: Row, name: str, found: Row) -> Report:
    """The report with ``found`` in the row of the same training as ``row``, if there still is one."""
    for known in report["rows"]:
        if _same_training(known, row):
            known["attacks"] = _with_most_images(known["attacks"], {name: found})
    return report


def _key(row: Row) -> tuple[str, float, int, float]:
    return row["way"], row["fraction"], row["seed"], row["budget"]


def _same_training(row: Row, other: Row) -> bool:
    """In a home of its own a model's name alone says nothing about which training it is of."""
    return _key(row) == _key(other) and all(row[name] == other[name] for name in ("model", "training_seconds"))


def _measured(row: Row) -> dict[str, Row]:
    """Accuracies by name: ``clean``, and under each attack. Older rows do not tell the number of the clean images."""
    standard = [found["images"] for name, found in row["attacks"].items() if name != "autoattack"]
    return {"clean": {"images": max(standard, default=0), **row["clean"]}, **row["attacks"]}


def _with_most_images(*measured: dict[str, Row]) -> dict[str, Row]:
    merged: dict[str, Row] = {}
    for name, found in (item for one in measured for item in one.items()):
        if name not in merged or found["images"] >= merged[name]["images"]:
            merged[name] = found
    return merged


def _write_table(report: Report) -> str:
    """Put the table between its marks on the page, and answer it."""
    options = report["options"]
    begin, end = (mark.format(table=_table(options["dataset"], options["preset"])) for mark in MARKS)
    table = "\n".join(_lines(report)).rstrip() + "\n"
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(begin)
    _, after = rest.split(end)
    _replace(PAGE, before + begin + table + end + after)
    return table


def _lines(report: Report) -> Iterator[str]:
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
