"""A few hundred generated requests; `make fuzz` sends 10,000."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.run import MAX_GROWTH, TRACE, fuzzer

CASES = 240
SEED = 20260101


def test_generated_requests_get_documented_answers(tmp_path: Path) -> None:
    """No answer outside the document, none of 5xx, no stack trace anywhere, and memory that stays."""
    with fuzzer(tmp_path) as running:
        running.run(CASES, seed=SEED)
    findings = running.findings
    assert findings.failures == {}, findings
    assert findings.cases >= CASES and len({label for label, _ in findings.operations}) >= 39, findings
    assert TRACE not in (tmp_path / "server.log").read_text()
    assert findings.growth < MAX_GROWTH, findings
