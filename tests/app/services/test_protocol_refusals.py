"""A protocol that cannot run is refused, and the client is told where in the body that they sent."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import InvalidSpecError
from app.records.session import Database
from app.services import datasets, plan
from app.services.presets import probe_body, training_body
from tests.app.services.test_protocol import submit

UPLOAD: dict[str, Any] = {"format": "npz", "sha256": "0" * 64, "size": 1, "classes": ["a", "b"], "test_size": 4}
UPLOAD |= {"image_shape": (1, 8, 8), "mean": [0.3], "std": [0.4]}


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"methods": ["standard", "none"]}, "/methods/1"),
        ({"methods": ["clead", "clead"]}, "/methods/1"),
        ({"dataset": {"name": "none"}}, "/dataset/name"),
        ({"dataset": {"name": "digits", "subset": 5000}}, "/dataset/subset"),
        ({"preset": "huge"}, "/preset"),
        ({"methodes": []}, "/methodes"),
        ({"attacks": [{"name": "pgd", "stpe": 3}]}, "/attacks/0/stpe"),
        ({"attacks": [{"name": "pgd"}, {"name": "pgd"}]}, "/attacks/1"),
        ({"dataset": {"name": "digits", "labels_fraction": 0.0005}}, "/dataset/labels_fraction"),
        ({"dataset": {"name": "digits", "subset": 1, "labels_fraction": 0.5}}, "/dataset/subset"),
        ({"dataset": {"name": "one"}}, "/dataset/name"),
    ],
)
def test_a_protocol_that_cannot_run_is_refused_with_a_pointer(
    database: Database, changes: dict[str, Any], pointer: str
) -> None:
    with database.writing() as session:
        datasets.register(session, name="one", train_size=1, **UPLOAD)
    with pytest.raises(InvalidSpecError) as refusal:
        submit(database, **changes)
    assert [error["pointer"] for error in refusal.value.errors] == [pointer]


def test_how_many_labels_a_protocol_needs_is_told(database: Database) -> None:
    with pytest.raises(InvalidSpecError, match=r"1 of 1437 images has a label; .* give at least 0\.0014$"):
        submit(database, dataset={"name": "digits", "labels_fraction": 0.0005})
    assert submit(database, dataset={"name": "digits", "labels_fraction": 0.0014})


@pytest.mark.parametrize(("method", "step"), [("standard", "train:standard"), ("deacl", "teacher:deacl")])
def test_what_a_step_refuses_is_told_of_the_preset(
    database: Database, method: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not of a field that the client did not send."""
    monkeypatch.setattr(plan, "training_body", lambda *given, **more: {**training_body(*given, **more), "epochs": 0})
    with pytest.raises(InvalidSpecError) as refusal:
        submit(database, methods=[method])
    (error,) = refusal.value.errors
    assert error["pointer"] == "/preset"
    assert error["detail"].startswith(f"its step {step} cannot run: /epochs: Input should be greater than")
    monkeypatch.undo()
    monkeypatch.setattr(plan, "probe_body", lambda *given, **more: {**probe_body(*given, **more), "batch_size": 1})
    with pytest.raises(InvalidSpecError, match="/preset: its step probe:clead cannot run: /batch_size: Input should"):
        submit(database, methods=["clead"])
