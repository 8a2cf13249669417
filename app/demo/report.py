"""The demo's outcome as a table on the terminal, as JSON, as Markdown and as one HTML file with its pictures inside."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

COLUMNS = {"clean": "clean", "fgsm": "FGSM", "pgd": "PGD", "cw-linf": "CW-Linf"}


def write(home: Path, *, job: dict[str, Any], classified: list[dict[str, Any]]) -> list[Path]:
    """Write ``report.json``, ``report.md`` and ``report.html`` into ``home``; returns their paths."""
    result = job["result"]
    fields = ("method", "model", *COLUMNS, "ci95", "seconds", "evaluation", "warnings")
    data = {
        "job": job["id"],
        "finished_at": job["finished_at"],
        "protocol": result["protocol"],
        "rows": [{field: row[field] for field in fields if field in row} | _others(row) for row in result["rows"]],
        "classify": [{key: value for key, value in entry.items() if key != "png"} for entry in classified],
    }
    environment = Environment(loader=PackageLoader("app.demo"), autoescape=select_autoescape(), trim_blocks=True)
    environment.filters["data_url"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    values = {"job": job, "columns": _columns(result), "protocol": describe_protocol(result), "cell": _cell}
    values |= {"rows": result["rows"], "classified": classified}
    contents = {
        "report.json": json.dumps(data, indent=2) + "\n",
        "report.md": environment.get_template("report.md").render(values),
        "report.html": environment.get_template("report.html").render(values),
    }
    for name, text in contents.items():
        (home / name).write_text(text, encoding="utf-8")
    return [home / name for name in contents]


def show(console: Console, *, job: dict[str, Any], classified: list[dict[str, Any]]) -> None:
    """Print the comparison and what `/classify` answered."""
    result = job["result"]
    columns = _columns(result)
    table = Table(
        "method", *columns.values(), "seconds", title="Accuracy in percent, clean and under attack", box=SIMPLE
    )
    for row in result["rows"]:
        table.add_row(row["method"], *(_short_cell(row, name) for name in columns), f"{row['seconds']:.0f}")
    console.print(table)
    console.print(describe_protocol(result) + "  Above, ± is half of it.")
    answers = Table("model", "image", "true", "clean →", "attacked →", title="POST /classify", box=SIMPLE)
    for entry in classified:
        answers.add_row(
            entry["model"],
            f"#{entry['image']}",
            entry["label"],
            _answer(entry, "clean"),
            _answer(entry, "adversarial"),
        )
    console.print(answers)


def describe_protocol(result: dict[str, Any]) -> str:
    """One sentence a reader needs to judge the table by."""
    protocol = result["protocol"]
    return (
        f"White box, Linf ball of radius {protocol['eps']:.4g} in pixels of [0, 1]; PGD and CW-Linf take "
        f"{protocol['steps']} steps and count an image as broken at any iterate; {protocol['images']} test images, "
        f"seed {protocol['seed']}; brackets are 95 % Wilson intervals; seconds are training time, pretraining included."
    )


def _columns(result: dict[str, Any]) -> dict[str, str]:
    steps = result["protocol"]["steps"]
    titles = {name: f"PGD-{steps}" if name == "pgd" else title for name, title in COLUMNS.items()}
    extra = {name: name.upper() for row in result["rows"] for name in _others(row)}
    return titles | extra


def _others(row: dict[str, Any]) -> dict[str, Any]:
    """Accuracies under attacks beside the standard columns, such as ``pgd-100``."""
    return {name: row[name] for name in row["ci95"] if name not in COLUMNS}


def _cell(row: dict[str, Any], name: str) -> str:
    low, high = row["ci95"][name]
    return f"{row[name]:.3f} [{low:.3f}, {high:.3f}]"


def _short_cell(row: dict[str, Any], name: str) -> str:
    """Percent with half the interval's width, which fits a terminal of 80 columns."""
    low, high = row["ci95"][name]
    return f"{100 * row[name]:.1f} ±{50 * (high - low):.1f}"


def _answer(entry: dict[str, Any], kind: str) -> str:
    answer = entry[kind]
    colour = "green" if answer["label"] == entry["label"] else "red"
    return f"[{colour}]{answer['label']}[/{colour}] ({answer['probability']:.2f})"
