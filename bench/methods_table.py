"""The table of ``bench.methods`` in docs/results.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.methods_plan import WAYS

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
MARKS = "<!-- bench.methods {dataset}: begin -->\n", "<!-- bench.methods {dataset}: end -->\n"


def write_table(report: dict[str, Any]) -> str:
    """Put the table between its marks on the page, and answer it."""
    begin, end = (mark.format(dataset=report["options"]["dataset"]) for mark in MARKS)
    table = "\n".join(_lines(report)).rstrip() + "\n"
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(begin)
    _, after = rest.split(end)
    PAGE.write_text(before + begin + table + end + after, encoding="utf-8")
    return table


def _lines(report: dict[str, Any]) -> Iterator[str]:
    """A table for each share of labels, a row for each seed, by least accuracy under an attack on all test images."""
    options = report["options"]
    for fraction in options["fractions"]:
        rows = [row for row in report["rows"] if row["fraction"] == fraction]
        if not rows:
            continue
        images = {name: found["images"] for row in rows for name, found in row["attacks"].items()}
        names = list(images)
        every = options["images"]
        yield f"**{fraction:.0%} of the labels** ({round(fraction * every):,} of {every:,} images)"
        yield ""
        heads = [f"{name} ({images[name]:,})" for name in names]
        yield f"| way | backbone | seed | clean | {' | '.join(heads)} | training s | probe s |"
        yield "|---" * (6 + len(names)) + "|"
        for row in sorted(rows, key=_least, reverse=True):
            cells = [_cell(row["clean"]["accuracy"], row["clean"]["ci95"])]
            cells += [_attacked(row["attacks"].get(name)) for name in names]
            frozen = "frozen" if WAYS[row["way"]].frozen else "trained with labels"
            seconds = f"{row['training_seconds']:.0f} | {row['probe_seconds']:.0f}"
            yield f"| {row['way']} | {frozen} | {row['seed']} | {' | '.join(cells)} | {seconds} |"
        yield ""


def _least(row: dict[str, Any]) -> float:
    attacks = row["attacks"].values()
    most = max(found["images"] for found in attacks)
    return float(min(found["robust_accuracy"] for found in attacks if found["images"] == most))


def _attacked(found: dict[str, Any] | None) -> str:
    return "" if found is None else _cell(found["robust_accuracy"], found["ci95"])


def _cell(accuracy: float, interval: list[float]) -> str:
    low, high = interval
    return f"{100 * accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
