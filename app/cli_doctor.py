"""`clead doctor`: print what the checks found."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from app.settings import Settings, faults

if TYPE_CHECKING:
    from app.doctor.findings import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}


def doctor(
    url: Annotated[
        str | None, typer.Option(envvar="CLEAD_URL", help="address of the API, to look at it as well")
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="read all weights and compare their hashes")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for a machine to read")] = False,
) -> None:
    """Check this deployment: settings, database, broker, storage, models, workers, jobs. Exit status 1 if one failed.

    It looks from the machine that it is run on, with that machine's settings, and changes nothing.
    """
    findings = _examine(url, deep=deep)
    if as_json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        _print(findings)
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(1)


def _examine(url: str | None, *, deep: bool) -> list[Finding]:
    from app.doctor.examination import examine
    from app.doctor.findings import Site, failed, ok

    try:
        settings = Settings()
    except ValidationError as error:
        advice = "clead settings lists every setting with its meaning"
        return [failed("settings", fault, advice=advice) for fault in faults(error)]
    changed = len(settings.model_fields_set - {"database_url", "broker_url", "storage_url"})
    return [ok("settings", f"can be read; {changed} set"), *examine(Site(settings, url=url, deep=deep))]


def _print(findings: list[Finding]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for column in ("status", "check"):
        table.add_column(column, no_wrap=True)
    table.add_column("detail", overflow="fold")
    for finding in findings:
        colour = _COLOURS[finding.status]
        table.add_row(f"[{colour}]{finding.status}[/{colour}]", finding.check, _plain(finding.detail))
        if finding.advice:
            table.add_row("", "", _plain(f"→ {finding.advice}"))
    Console().print(table)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
