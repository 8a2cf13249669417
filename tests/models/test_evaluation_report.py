"""Worst cases of hand-made outcomes: image by image, not attack by attack."""

from __future__ import annotations

from typing import Any

import torch

from models.attacks.spec import ATTACKS, AttackParams
from models.evaluation_evidence import AttackEvidence
from models.evaluation_report import Outcome, worst_cases
from models.evaluation_spec import EvaluationParams


def outcome(params: AttackParams, broken: str) -> Outcome:
    """One of eight images, all right before; ``broken`` has an x for each that the attack breaks."""
    breaks = torch.tensor([mark == "x" for mark in broken])
    norms = torch.zeros(8, dtype=torch.float64)
    seen = AttackEvidence(breaks, breaks, norms, norms, 0.0)
    return Outcome(ATTACKS[params.name], params, torch.ones(8, dtype=torch.bool), seen)


def attacks(*bodies: dict[str, Any]) -> tuple[AttackParams, ...]:
    return EvaluationParams.model_validate(
        {"model": "m@1", "dataset": {"name": "digits"}, "attacks": list(bodies)}
    ).attacks


def test_an_image_stands_if_every_attack_of_the_ball_leaves_it() -> None:
    linf = {"eps": 0.1, "steps": 2, "step_size": 0.05}
    pgd, square, cw, l2, fgsm, noise, transfer = attacks(
        {"name": "pgd", **linf},
        {"name": "square", "eps": 0.1, "queries": 2},
        {"name": "cw-l2", "steps": 2},
        {"name": "pgd", "norm": "l2", **linf},
        {"name": "fgsm", "eps": 0.1},
        {"name": "gaussian-noise", "std": 0.1},
        {"name": "transfer", "source": "other@1", "attack": {"name": "pgd", **linf}},
    )
    found = worst_cases(
        [
            outcome(pgd, "xx......"),
            outcome(square, "..x....."),
            outcome(cw, "xxxxxxxx"),
            outcome(l2, "...xx..."),
            outcome(fgsm, "...x...."),
            outcome(noise, "xxxxxxxx"),
            outcome(transfer, "xxxxxxxx"),
        ]
    )
    assert [(case["norm"], case["attacks"], case["accuracy"]) for case in found["worst_cases"]] == [
        ("linf", ["pgd", "square", "fgsm"], 0.5),
        ("l2", ["pgd"], 0.75),
    ]
    assert found["worst_case_accuracy"] == 3 / 8
