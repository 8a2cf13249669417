"""Requests that schemathesis generates from the OpenAPI document, sent to a real server: `make fuzz`.

Half of them come from this machine without a token, half with one; half of each fit the document, half break it
somewhere. In half of all, names and files are replaced by ones that exist.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks

from app.security import SCOPES, Scope
from app.settings import Settings
from migrations import upgrade
from tests.app.process import ApiProcess, api_process
from tests.fuzz.home import Home, furnish
from tests.memory import MIB, resident_bytes

CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
TRACE = "Traceback (most recent call last)"
TRACES = (TRACE, 'File "/', "site-packages")
MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
WARM_UP = 0.2
"""Share of the cases after which the server's memory is taken as its usual one."""
MAX_GROWTH = 100 * MIB
"""Caches of models, of compiled statements and of pictures still fill; what leaks grows with every case."""
UNREADY = "GET /readyz"
"""Answers 503: no worker runs."""
ENOUGH = 10_000
"""Cases after which each operation must have been done, too."""
TIMEOUT_SECONDS = 60  # only ends a hang


@dataclass
class Findings:
    """What came of it. ``memory``: resident bytes of the server after the warm-up and at the end."""

    statuses: Counter[int] = field(default_factory=Counter)
    operations: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)
    memory: list[int] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.statuses.total()

    @property
    def growth(self) -> int:
        """Bytes that the server's memory grew by after the warm-up."""
        return self.memory[-1] - self.memory[0]

    @property
    def never_done(self) -> set[str]:
        """Operations that were always refused, and of which little was tested; not the one that needs a worker."""
        done = {label for label, status in self.operations if status < 300}
        return {label for label, _ in self.operations} - done - {UNREADY}

    def __str__(self) -> str:
        answers = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        lines = [
            f"{self.cases} cases, {len({label for label, _ in self.operations})} operations; "
            f"{len(self.failures)} kinds of failure",
            f"never done: {', '.join(sorted(self.never_done)) or 'none'}",
            f"answers by status: {answers}",
            f"memory of the server: {self.memory[0] / MIB:.0f} MiB after the warm-up, {self.growth / MIB:+.0f} since",
        ]
        return "\n".join([*lines, *(f"\n--- {kind}\n{text}" for kind, text in self.failures.items())])


def _without_tuples(schema: Any) -> Any:
    """``prefixItems`` as one schema for all items: schemathesis 4.32 writes it in a draft that it then refuses."""
    if isinstance(schema, list):
        return [_without_tuples(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: _without_tuples(value) for key, value in schema.items()}
    if "prefixItems" in changed:
        changed["items"] = {"anyOf": changed.pop("prefixItems")}
    return changed


class Fuzzer:
    """Sends cases to one server and collects what is wrong with the answers."""

    def __init__(self, server: ApiProcess, home: Home) -> None:
        self._server, self._home = server, home
        self._tokens: dict[Scope, str] = {}
        self._headers: dict[str, str] = {}
        self._session = requests.Session()
        self.findings = Findings()
        document = server.client.get("/openapi.json").raise_for_status().json()
        loaded = schemathesis.openapi.from_dict(_without_tuples(document))
        self._operations = [found.ok() for found in loaded.get_all_operations()]

    def run(self, cases: int, *, seed: int) -> None:
        """Send at least ``cases``, the last half with a token."""
        for until in (cases // 2, cases):
            while self.findings.cases < until:
                self._round(until, seed=seed)
                seed += 1
            if not self._headers:
                self._tokens = {scope: self._home.token(scope) for scope in SCOPES}
                self._headers = self._bearer("admin")
        self.findings.memory.append(resident_bytes(self._server.pid))

    def _bearer(self, scope: Scope) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._tokens[scope]}"} if self._tokens else {}

    def _round(self, until: int, *, seed: int) -> None:
        """Every operation in every mode, with its share of what is left to ``until``; some have few cases."""
        share = max(1, (until - self.findings.cases) // (2 * len(self._operations)))
        for operation in self._operations:
            self._home.restock(self._server.client, self._headers)
            for mode in MODES:
                self._send_many(operation, mode, count=share, seed=seed)
            if not self.findings.memory and self.findings.cases >= WARM_UP * until:
                self.findings.memory.append(resident_bytes(self._server.pid))

    def _send_many(self, operation: Any, mode: Any, *, count: int, seed: int) -> None:
        options = settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        strategy = operation.as_strategy(generation_mode=mode)

        @seeded(seed)
        @options
        @given(strategy, st.randoms(use_true_random=False))
        def send(case: Any, chance: random.Random) -> None:
            self._send(case, chance)

        try:
            send()
        except Unsatisfiable:  # nothing in this operation can be broken: it takes no parameters
            return

    def _send(self, case: Any, chance: random.Random) -> None:
        label = case.operation.label
        if chance.random() < 0.5:
            self._home.settle(case, chance)
        if chance.random() < 0.9:  # the others come with whatever token schemathesis made up
            case.headers.pop("Authorization", None)
            case.headers.update(self._bearer(chance.choice(("admin", "admin", "admin", *SCOPES))))
        try:
            # Not case.call: it reads event streams by a method that urllib3 has from version 2 on.
            request = case.as_transport_kwargs(base_url=str(self._server.client.base_url))
            answer = self._session.request(**request, timeout=TIMEOUT_SECONDS)
        except requests.RequestException as error:
            self.findings.failures.setdefault(f"{label}: {type(error).__name__}", f"{error}\n{case.as_curl_command()}")
            return
        self.findings.statuses[answer.status_code] += 1
        self.findings.operations[label, answer.status_code] += 1
        self._check(case, answer)

    def _check(self, case: Any, answer: Any) -> None:
        label = case.operation.label
        wrong = []
        unready = label == UNREADY and answer.status_code == 503
        if answer.status_code >= 500 and not unready:
            wrong.append(("server error", answer.text))
        wrong += [("stack trace", answer.text) for trace in TRACES if trace in answer.text]
        try:
            case.validate_response(answer, checks=CHECKS)
        except FailureGroup as group:
            wrong += [(type(failure).__name__, f"{failure.title}: {failure.message}") for failure in group.exceptions]
        for kind, text in wrong:
            key = f"{label}: {kind}, status {answer.status_code}"
            self.findings.failures.setdefault(key, f"{text[:1500]}\n{case.as_curl_command()[:3000]}")


@contextmanager
def fuzzer(folder: Path) -> Iterator[Fuzzer]:
    """A fuzzer of a new service whose home and log lie in ``folder``. No worker runs: jobs stay queued."""
    own = Settings(home=folder / "home")
    upgrade(own)
    with (folder / "server.log").open("w") as log, api_process(own, log=log) as server:
        yield Fuzzer(server, furnish(own, server.client, folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=ENOUGH)
    parser.add_argument("--seed", type=int, default=random.randrange(2**31))
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        with fuzzer(Path(folder)) as running:
            running.run(chosen.cases, seed=chosen.seed)
        log = (Path(folder) / "server.log").read_text()
        print(running.findings)
        print(f"stack traces in the log: {log.count(TRACE)}")
        if TRACE in log:
            print(log[log.index(TRACE) :][:5000])
    found = running.findings
    missed = found.cases >= ENOUGH and found.never_done
    return 1 if found.failures or missed or TRACE in log or found.growth > MAX_GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
