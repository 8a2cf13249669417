"""What a report makes of hand-made outcomes: worst cases image by image, and the quantiles of the norms."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.attacks.spec import ATTACKS, AttackParams
from models.evaluation_evidence import AttackEvidence
from models.evaluation_report import Outcome, attack_row, worst_cases
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


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([0.5, 0.1, 0.4, 0.2, 0.3], [0.1, 0.2, 0.3, 0.4, 0.5]),
        ([0.4, 0.1, 0.3, 0.2], [0.1, 0.1, 0.2, 0.3, 0.4]),  # a quarter, a half and three quarters of four are images
        ([0.3, torch.inf, 0.1, 0.2, torch.inf], [0.1, 0.2, 0.3, None, None]),
        ([0.7], [0.7] * 5),
        ([], [None] * 5),
    ],
)
def test_a_quantile_is_the_smallest_norm_that_breaks_that_share_of_the_attacked_images(
    found: list[float], expected: list[float | None]
) -> None:
    (cw,) = attacks({"name": "cw-l2"})
    norms = torch.tensor([torch.inf, *found], dtype=torch.float64)  # the first image was wrong before the attack
    fooled, right = norms.isfinite(), torch.arange(len(norms)) > 0
    outcome = Outcome(ATTACKS["cw-l2"], cw, right, AttackEvidence(fooled, fooled, norms, norms, 0.0))
    row = attack_row(outcome, torch.zeros(len(norms), dtype=torch.int64), classes=("a",))
    assert row["l2_quantiles"] == dict(zip(("0.1", "0.25", "0.5", "0.75", "0.9"), expected, strict=True))
