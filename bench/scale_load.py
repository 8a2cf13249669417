"""Sends requests to the API, one client or several at once, and times each answer."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

WARM_UP = 20
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Request:
    path: str
    body: dict[str, Any] | None = None
    key: str | None = None
    account: str | None = None
    """Whose token is sent; None: the operator's."""
    first_byte: bool = False
    """Measure until the answer begins, and leave the rest."""


@dataclass(frozen=True)
class Route:
    """One row of the table: how its requests are made, and what is required of the slowest of a hundred."""

    name: str
    make: Callable[[], Request]
    limit_ms: float | None


@dataclass(frozen=True)
class Api:
    """Where it listens, the tokens of its accounts, and the processes whose CPU time an answer takes."""

    port: int
    tokens: Mapping[str | None, str]
    process: int
    postgres: int

    def client(self) -> httpx.Client:
        """A client of the operator's."""
        headers = {"Authorization": f"Bearer {self.tokens[None]}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60, headers=headers)

    def cpu_seconds(self) -> float:
        """Of the API and of PostgreSQL since they started."""
        own = cpu_seconds(self.process) + cpu_seconds(self.postgres, ended=True)
        return own + sum(map(cpu_seconds, (*_children(self.process), *_children(self.postgres))))


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for path in found for child in path.read_text().split()]


def cpu_seconds(pid: int, *, ended: bool = False) -> float:
    """Seconds of user and system time; ``ended``: with that of children which have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(map(int, fields[11 : 15 if ended else 13])) / TICKS


def measure(api: Api, routes: Sequence[Route], *, requests: int, clients: int) -> list[dict[str, Any]]:
    """Each route ``requests`` times by so many clients at once; milliseconds from the request to the answer's end."""
    rows = []
    for route in routes:
        _ask(api, route, requests=min(WARM_UP, requests), clients=clients)
        cpu = api.cpu_seconds()
        seconds = sorted(_ask(api, route, requests=requests, clients=clients))
        cpu = (api.cpu_seconds() - cpu) / len(seconds)
        row: dict[str, Any] = {"route": route.name, "clients": clients, "requests": len(seconds)}
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            row[f"{name}_ms"] = round(1000 * seconds[min(len(seconds) - 1, int(share * len(seconds)))], 2)
        row |= {
            "max_ms": round(1000 * seconds[-1], 2),
            "cpu_ms": round(1000 * cpu, 2),
            "required_p99_ms": route.limit_ms,
        }
        rows.append(row)
        print(line(row), flush=True)
    return rows


def line(row: Mapping[str, Any]) -> str:
    """A row for people."""
    limit = row["required_p99_ms"]
    verdict = "" if limit is None else f"p99 < {limit:.0f}: {'yes' if row['p99_ms'] < limit else 'NO'}"
    figures = " ".join(f"{row[name]:8.1f}" for name in ("p50_ms", "p95_ms", "p99_ms", "max_ms", "cpu_ms"))
    return f"{row['route']:<48} {row['clients']:>2} {figures}  {verdict}"


def _ask(api: Api, route: Route, *, requests: int, clients: int) -> list[float]:
    made = [route.make() for _ in range(requests)]
    found: list[float] = []
    errors: list[Exception] = []

    def client(share: Sequence[Request]) -> None:
        try:
            found.extend(_one_client(api, share))
        except Exception as error:  # told to the caller below
            errors.append(error)

    threads = [threading.Thread(target=client, args=(made[number::clients],)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return found


def _one_client(api: Api, requests: Sequence[Request]) -> list[float]:
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=120)
    seconds = []
    for request in requests:
        headers = {"Authorization": f"Bearer {api.tokens[request.account]}"}
        headers |= {} if request.key is None else {"Idempotency-Key": request.key}
        headers |= {} if request.body is None else {"Content-Type": "application/json"}
        body = None if request.body is None else json.dumps(request.body)
        began = time.perf_counter()
        connection.request("GET" if body is None else "POST", request.path, body, headers)
        answer = connection.getresponse()
        content = answer.read(1) if request.first_byte else answer.read()
        seconds.append(time.perf_counter() - began)
        if answer.status not in (200, 202):
            raise RuntimeError(f"{request.path}: {answer.status} {content[:500]!r}")
        if request.first_byte:
            connection.close()
    connection.close()
    return seconds
