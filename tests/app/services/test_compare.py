"""Comparisons: which undefended model stands before which row, and how attacks are named."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from app.records.session import Database
from app.services import compare, jobs, models
from tests.app.services.test_protocol import children, submit, succeed

Before = tuple[str | None, float | None]


def test_comparison_shows_before_and_after(database: Database) -> None:
    parent = submit(database)
    for key, robust in (
        ("train:standard", 0),
        ("pretrain:clead", 0),
        ("probe:clead", 0),
        ("evaluate:standard", 0.02),
        ("evaluate:clead", 0.45),
    ):
        succeed(database, children(database, parent)[key], robust=robust)
    with database.session() as session:
        rows = compare.compare(session, [parent])
    after = {(row["method"], row["attack"]): (row["before"], row["after"]) for row in rows}
    assert after["clead", "pgd"] == (0.02, 0.45)
    assert after["standard", "pgd"] == (None, 0.02)
    assert len(rows) == 8
    assert "| digits-clead@1 | clead | digits | 360 | 90.0 | pgd | 0.2 | 2.0 | 45.0 | few-images |" in compare.render(
        rows, "markdown"
    )
    table = compare.render(rows, "csv").splitlines()
    assert table[0] == "model,method,dataset,images,clean,attack,eps,before,after,warnings,ci95_low,ci95_high"
    assert ",0.45,few-images," in table[-1]
    assert "| few-images |" not in compare.render([{**rows[0], "warnings": []}], "markdown")
    assert (
        r"digits-clead@1 & clead & digits & 360 & 90.0 & pgd-100 & 0.2 & 2.0 & 45.0 & few-images \\"
        in compare.render(rows, "latex")
    )


def test_names_of_attacks_tell_norms_apart() -> None:
    asked = [("pgd", "linf", 20), ("pgd", "l2", 20), ("pgd", "linf", 100), ("cw-l2", "l2", 200), ("fgsm", "linf", None)]
    attacks = [{"name": name, "spec": {"norm": norm, "steps": steps}} for name, norm, steps in asked]
    assert compare.attack_names(attacks) == ["pgd", "pgd-l2", "pgd-100", "cw-l2", "fgsm"]


def test_a_transferred_attack_is_never_called_white_box(database: Database) -> None:
    with database.writing() as session:
        attack = {"name": "pgd", "norm": "linf", "eps": 0.2}
        spec = {"model": "m@1", "dataset": {"name": "digits"}, "attacks": []}
        job = jobs.submit(
            session, kind="evaluate", spec={**spec, "dataset": {"name": "digits", "split": "test", "subset": 9}}
        )
        job.status = "succeeded"
        shared = {"robust_accuracy": 0.5, "ci95": [0.4, 0.6]}
        job.result = {
            "model": "m@1",
            "dataset": {"name": "digits", "size": 9},
            "clean_accuracy": 0.9,
            "attacks": [
                {"name": "pgd", "access": "white-box", "spec": attack, **shared},
                {"name": "transfer", "access": "transfer", "spec": {"source": "n@1", "attack": attack}, **shared},
            ],
        }
        rows = compare.compare(session, [job.id])
    assert [(row["attack"], row["threat_model"], row["eps"]) for row in rows] == [
        ("pgd", "white-box", 0.2),
        ("transfer", "transfer", 0.2),
    ]


def evaluated(
    database: Database,
    name: str,
    method: str,
    *,
    robust: float,
    width: int = 32,
    protocol: str | None = None,
    eps: float = 0.2,
    subset: int | None = None,
    sha256: str = "d",
) -> str:
    """An evaluation by PGD, finished, of a model that ``method`` trained; its id."""
    with database.writing() as session:
        training = jobs.submit(session, kind="train", spec={"method": method})
        card = {"backbone": {"name": "resnet18", "width": width}}
        models.register_version(session, name=name, sha256="0" * 64, size=1, card=card, job_id=training.id)
        data = {"name": "digits", "split": "test", "subset": subset}
        job = jobs.submit(session, kind="evaluate", spec={"model": f"{name}@1", "dataset": data})
        job.status, job.parent_id = "succeeded", protocol
        attack = {"name": "pgd", "spec": {"name": "pgd", "eps": eps}, "robust_accuracy": robust, "ci95": [0.0, 1.0]}
        job.result = {
            "model": f"{name}@1",
            "dataset": {"name": "digits", "size": 360, "sha256": sha256},
            "clean_accuracy": 0.9,
            "attacks": [attack],
        }
        return job.id


def before(database: Database, *job_ids: str) -> dict[str, Before]:
    """Model → the undefended one before it and its accuracy, which no order of the jobs may change."""
    with database.session() as session:
        found = [
            {row["model"]: (row["before_model"], row["before"]) for row in compare.compare(session, order)}
            for order in permutations(job_ids)
        ]
    assert all(answer == found[0] for answer in found)
    return found[0]


def test_a_row_stands_behind_the_base_of_its_own_protocol(database: Database) -> None:
    first, second = submit(database), submit(database)
    ids = [
        evaluated(database, "base-a", "standard", robust=0.01, protocol=first),
        evaluated(database, "a", "clead", robust=0.41, protocol=first),
        evaluated(database, "base-b", "standard", robust=0.02, protocol=second),
        evaluated(database, "b", "clead", robust=0.42, protocol=second),
    ]
    found = before(database, *ids)
    assert (found["a@1"], found["b@1"]) == (("base-a@1", 0.01), ("base-b@1", 0.02))
    assert found["base-a@1"] == found["base-b@1"] == (None, None)


def test_else_behind_the_one_of_its_backbone_or_none(database: Database) -> None:
    narrow = evaluated(database, "narrow", "standard", robust=0.01, width=16)
    wide = evaluated(database, "wide", "standard", robust=0.02, width=64)
    ours = evaluated(database, "ours", "clead", robust=0.4, width=16)
    other = evaluated(database, "other", "clead", robust=0.4, width=32)
    found = before(database, narrow, wide, ours, other)
    assert (found["ours@1"], found["other@1"]) == (("narrow@1", 0.01), (None, None))
    rival = evaluated(database, "rival", "standard", robust=0.03, width=16)
    assert before(database, narrow, rival, ours)["ours@1"] == (None, None), "several: no guess"
    with database.writing() as session:
        models.delete_model(session, "ours")
    assert before(database, narrow, wide, ours)["ours@1"] == (None, None), "nobody knows its backbone"


@pytest.mark.parametrize("other", [{"eps": 0.1}, {"subset": 100}, {"sha256": "e"}], ids=lambda other: next(iter(other)))
def test_what_stands_before_was_attacked_in_the_same_way_on_the_same_images(
    database: Database, other: dict[str, Any]
) -> None:
    base = evaluated(database, "base", "standard", robust=0.01, **other)
    ours = evaluated(database, "ours", "clead", robust=0.4)
    assert before(database, base, ours)["ours@1"][1] is None
    same = evaluated(database, "same", "clead", robust=0.4, **other)
    assert before(database, base, same)["same@1"] == ("base@1", 0.01)
