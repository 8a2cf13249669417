"""Where each warning begins: hand-made counts on either side of its bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from scipy.stats import binomtest

from models.attacks.spec import ATTACKS
from models.evaluation_evidence import AttackEvidence, Evidence
from models.evaluation_report import Outcome
from models.evaluation_warnings import warnings
from tests.models.evaluations import spec

IMAGES = 400
FGSM, PGD = {"name": "fgsm", "eps": 0.1}, {"name": "pgd", "eps": 0.1}


def codes(
    *attacks: tuple[dict[str, Any], int],
    clean: int = IMAGES,
    images: int = IMAGES,
    health: Mapping[str, float] | None = None,
    classes: int = 10,
) -> list[str]:
    """Of ``images`` of equally large classes, the first ``clean`` right, the first so many right after each attack."""
    place = torch.arange(images)
    params = spec([body for body, _ in attacks])
    norms = torch.zeros(images, dtype=torch.float64)
    right, evidences = place < clean, []
    for _, left in attacks:
        broken = right & (place >= left)
        evidences.append(AttackEvidence(broken, broken, norms, norms, 0.0))
    outcomes = [
        Outcome(ATTACKS[attack.name], attack, right, seen)
        for attack, seen in zip(params.attacks, evidences, strict=True)
    ]
    evidence = Evidence(
        place, place % classes, place % classes, right, tuple(evidences), (), (), health or {}, 0, 0, seconds=0.0
    )
    found = warnings(params, evidence, outcomes=outcomes, requirements=(), shape=(1, 8, 8))
    return [warning["code"] for warning in found]


def test_a_stronger_attack_may_leave_as_much_as_the_interval_of_the_weaker_one_allows():
    highest = binomtest(200, IMAGES).proportion_ci(0.95, method="wilson").high * IMAGES
    assert codes((FGSM, 200), (PGD, int(highest))) == []
    assert codes((FGSM, 200), (PGD, int(highest) + 1)) == ["pgd-above-fgsm"]
    assert codes((FGSM, 200), ({**PGD, "eps": 0.05}, 300)) == ["single-step-only"]  # in another ball


@pytest.mark.parametrize(("fgsm", "pgd", "collapsed"), [(151, 50, True), (150, 49, False), (151, 51, False)])
def test_a_collapse_is_fgsm_above_half_of_clean_and_pgd_below_a_third_of_fgsm(fgsm, pgd, collapsed):
    assert codes((FGSM, fgsm), (PGD, pgd), clean=300) == ["catastrophic-overfitting"] * collapsed


@pytest.mark.parametrize(("count", "images", "told"), [(5, 100, True), (4, 100, False), (2, 10, True), (1, 10, False)])
def test_two_images_and_one_in_twenty_are_noticed(count, images, told):
    assert codes((PGD, 100), health={"images": images, "zero_gradients": count}) == ["zero-gradients"] * told


@pytest.mark.parametrize(
    ("classes", "double", "told"),
    [(10, 60, False), (10, 61, True), (20, 59, False), (20, 60, True)],
    ids=["one class more", "more than a class", "in the interval", "above the interval"],
)
def test_fgsm_may_leave_one_class_more_at_a_larger_radius_or_as_much_as_its_interval_allows(classes, double, told):
    assert binomtest(50, 100).proportion_ci(0.95, method="wilson").high == pytest.approx(0.596, abs=0.001)
    health = {"images": 100, "sweep_half": 90, "sweep_asked": 50, "sweep_double": double}
    assert codes((PGD, 100), health=health, classes=classes) == ["non-monotone"] * told


def test_two_hundred_images_and_an_l2_radius_above_16_of_255_are_enough():
    assert codes((PGD, 50), images=199) == ["few-images"]
    assert codes((PGD, 50), images=200) == []
    l2 = {"name": "pgd", "norm": "l2"}
    assert codes(({**l2, "eps": "16/255"}, 50)) == ["l2-eps-looks-like-linf"]
    assert codes(({**l2, "eps": "17/255"}, 50)) == []
