"""A million runs and fifty million metric points: how long lists, filters, metrics and submissions take.

    python -m bench.scale --folder /tmp/scale [--runs 1000000] [--points 50000000] [--requests 1000] [--drain-jobs 1000]
        [--only 1x1,8x1,8x2,drain,pick-up]

Starts PostgreSQL (a cluster of its own in the folder; fsync and all durability as by default) and Redis, runs one
real job of each kind, and makes a year of runs out of their rows. Then asks the API over HTTP: one client at one API
process, eight at once, and eight at two processes; a row's ``cpu_ms`` is what the API and PostgreSQL compute for one
request. Then drains a queue with four workers, and times how soon `clead serve` begins a job. Data that the folder has
already are used again. At full size this takes 25 GB of disk and an hour on two cores. Writes
``bench/results/scale.json``, where what ``--only`` leaves out stays as it was; ``conditions`` tells how each part was
measured, and of older results the rest of the file does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from bench.options import among
from bench.scale_data import Year, fill, is_filled, submissions
from bench.scale_load import measure
from bench.scale_requests import Requests
from bench.scale_service import LOADING, POSTGRES, Servers, real_samples, servers
from bench.scale_workers import drain, pick_up
from bench.signals import end_in_order_at_sigterm

RESULTS = Path(__file__).parent / "results" / "scale.json"
LOADS = {"1x1": (1, 1), "8x1": (8, 1), "8x2": (8, 2)}
"""Name → clients at once, and API processes."""
PARTS = (*LOADS, "drain", "pick-up")
TOLD = ("runs", "points", "requests", "drain_jobs", "pick_ups")
"""Options that say how something was measured."""
SHARDS = 1000
WHOLE_REQUESTS = 10


def main() -> None:
    options = _options()
    end_in_order_at_sigterm()
    options.folder.mkdir(parents=True, exist_ok=True)
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with servers(options.folder) as running:
        facts = _filled(running, options) | {"options": {name: getattr(options, name) for name in TOLD}}
        facts["machine"] = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
        facts["postgres_settings"] = {**POSTGRES, **LOADING}
        for load in [name for name in LOADS if name in options.only]:
            with _kept(report, load, facts):
                report.setdefault("routes", {})[load] = _ask(running, *LOADS[load], requests=options.requests)
        if "drain" in options.only:
            with _kept(report, "drain", facts):
                report["drain"] = drain(running, jobs=options.drain_jobs)
    if "pick-up" in options.only:
        with _kept(report, "pick-up", facts):
            report["pick_up"] = pick_up(options.folder, times=options.pick_ups)
    print(table(report.get("routes", {})))
    print(json.dumps({name: report.get(name) for name in ("drain", "pick_up")}, indent=2))


@contextmanager
def _kept(report: dict[str, Any], part: str, facts: dict[str, Any]) -> Iterator[None]:
    """Write the report once the block has measured the part, with how that was."""
    before = os.getloadavg()
    yield
    loads = {"load_average_before": before, "load_average_after": os.getloadavg()}
    report.setdefault("conditions", {})[part] = {**facts, **loads}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for the data; kept afterwards")
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--points", type=int, default=50_000_000)
    parser.add_argument("--requests", type=int, default=1000, help="of each route and number of clients")
    parser.add_argument("--drain-jobs", type=int, default=1000)
    parser.add_argument("--pick-ups", type=int, default=30)
    parser.add_argument("--only", type=among(PARTS), default=list(PARTS), help=",".join(PARTS))
    return parser.parse_args()


def _filled(running: Servers, options: argparse.Namespace) -> dict[str, Any]:
    """What the database holds; it is filled unless it was before. Ends the process if that was interrupted."""
    began = time.monotonic()
    with running.connect() as connection:
        if not is_filled(connection):
            if connection.execute("SELECT EXISTS (SELECT FROM datasets)").fetchone() == (True,):
                sys.exit(f"filling {options.folder} was interrupted: remove it, and start again")
            year = Year(real_samples(running), options.runs, SHARDS)
            fill(connection, year, points=options.points)
            print(f"filled in {time.monotonic() - began:.0f} s", flush=True)
        query = (
            "SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM metric_points), (SELECT count(*) FROM"
            " job_labels), pg_database_size(current_database()), current_setting('server_version')"
        )
        names = ("runs", "points", "labels", "database_bytes", "postgres")
        return dict(zip(names, connection.execute(query).fetchone() or (), strict=True))


def _ask(running: Servers, clients: int, processes: int, *, requests: int) -> list[dict[str, Any]]:
    with running.connect() as connection, submissions(connection), running.api(processes=processes) as api:
        made = Requests(connection)
        rows = measure(api, made.lists() + made.jobs(), requests=requests, clients=clients)
        rows += measure(api, made.whole(), requests=min(requests, WHOLE_REQUESTS), clients=clients)
        rows += measure(api, made.submitting(), requests=requests, clients=clients)
    redis.Redis.from_url(running.settings.broker_url).flushall()  # the messages of the jobs that were deleted
    return rows


def table(loads: dict[str, list[dict[str, Any]]]) -> str:
    """The rows as docs/benchmarks.md shows them: a line a route, each load's figures, a missed p99 in bold."""
    known = [name for name in LOADS if name in loads]
    titles = [f"{LOADS[name][0]} at {LOADS[name][1]}: p50 | p99 | max" for name in known]
    lines = [
        f"| milliseconds, clients at processes | p99 required | {' | '.join(titles)} | CPU |",
        f"|---|{'---:|' * (2 + 3 * len(known))}",
    ]
    for rows in zip(*(loads[name] for name in known), strict=True):
        limit = rows[0]["required_p99_ms"]
        cells = [rows[0]["route"], "" if limit is None else f"{limit:.0f}"]
        for row in rows:
            missed = limit is not None and row["p99_ms"] >= limit
            p99 = f"**{row['p99_ms']:.0f}**" if missed else f"{row['p99_ms']:.0f}"
            cells += [f"{row['p50_ms']:.0f}", p99, f"{row['max_ms']:.0f}"]
        lines.append(f"| {' | '.join(cells)} | {rows[0]['cpu_ms']:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
