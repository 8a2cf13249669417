"""Turns what each attack did to each image into the rows and requirements of an evaluation's result."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.attacks.spec import Attack, AttackParams
from models.evaluation_evidence import AttackEvidence, Evidence
from models.evaluation_spec import EvaluationParams, parse_requirement
from models.statistics import wilson_interval

_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Outcome:
    """One attack and what it did; ``right``: classified right before it, boolean (N,)."""

    attack: Attack
    params: AttackParams
    right: Tensor
    seen: AttackEvidence

    @property
    def surviving(self) -> Tensor:
        """Right before and after the attack, boolean (N,)."""
        return self.right & ~self.seen.broken

    @property
    def robust_accuracy(self) -> float:
        return accuracy(self.surviving)

    @property
    def ball(self) -> dict[str, Any] | None:
        """The threat model in JSON."""
        if self.params.radius is None:
            return None
        norm, eps = self.params.radius
        return {"norm": norm, "eps": eps}


def report(
    params: EvaluationParams, evidence: Evidence, *, outcomes: Sequence[Outcome], classes: tuple[str, ...]
) -> dict[str, Any]:
    """The result's numbers. All floats are finite."""
    right, labels = evidence.right, evidence.labels
    clean, worst = accuracy(right), worst_cases(outcomes)
    return {
        "threat_model": "white-box",
        "clean_accuracy": clean,
        "clean_ci95": interval(right),
        "clean_per_class": per_class(right, labels, classes=classes),
        "attacks": [attack_row(outcome, labels, classes=classes) for outcome in outcomes],
        **worst,
        "curve": curve_rows(params, evidence),
        "requirements": requirements(params, outcomes, clean=clean, worst_case=worst["worst_case_accuracy"]),
        "cost": {
            "seconds": evidence.seconds,
            "forward_images": evidence.forwards,
            "gradient_images": evidence.gradients,
        },
    }


def curve_rows(params: EvaluationParams, evidence: Evidence) -> list[dict[str, Any]]:
    """Robust accuracy by growing radius."""
    rows = []
    for point, broken in zip(params.curve_points(), evidence.curve, strict=True):
        standing = evidence.right & ~broken
        rows.append({"eps": point.eps, "robust_accuracy": accuracy(standing), "ci95": interval(standing)})
    return rows


def accuracy(right: Tensor) -> float:
    """Share of True in a boolean (N,)."""
    return int(right.sum()) / len(right)


def interval(right: Tensor) -> list[float]:
    """95 % interval of :func:`accuracy`."""
    return list(wilson_interval(int(right.sum()), len(right)))


def per_class(right: Tensor, labels: Tensor, *, classes: tuple[str, ...]) -> dict[str, float]:
    """Accuracy of each class that has images."""
    shares = {}
    for index, name in enumerate(classes):
        members = labels == index
        if members.any():
            shares[name] = accuracy(right[members])
    return shares


def attack_row(outcome: Outcome, labels: Tensor, *, classes: tuple[str, ...]) -> dict[str, Any]:
    """One entry of ``attacks``. Means and medians of the norms are over fooled images, null if there are none."""
    attacked, seen = int(outcome.right.sum()), outcome.seen
    row: dict[str, Any] = {
        "name": outcome.attack.name,
        "access": outcome.attack.access,
        "spec": outcome.params.model_dump(mode="json"),
        "robust_accuracy": outcome.robust_accuracy,
        "ci95": interval(outcome.surviving),
        "success_rate": int(seen.fooled.sum()) / attacked if attacked else None,
        "mean_l2": _mean(seen.l2[seen.fooled]),
        "mean_linf": _mean(seen.linf[seen.fooled]),
        "median_l2": _median(seen.l2[seen.fooled]),
        "median_linf": _median(seen.linf[seen.fooled]),
        "per_class": per_class(outcome.surviving, labels, classes=classes),
        "attacked": attacked,
        "seconds": seen.seconds,
        "images_per_second": attacked / seen.seconds if attacked and seen.seconds > 0 else None,
    }
    if outcome.attack.minimum_norm:
        row["l2_quantiles"] = _norm_quantiles(seen.l2[outcome.right])
        row["note"] = _minimum_norm_note(outcome.params)
    if outcome.attack.parts is not None:
        row["parts"] = part_rows(outcome)
    return row


def part_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """The parts of an ensemble in their order, each with the accuracy that it and those before it left."""
    standing, rows = outcome.right, []
    for part in outcome.seen.parts:
        standing = standing & ~part.broken
        rows.append(
            {
                "name": part.name,
                "broken": int(part.broken.sum()),
                "robust_accuracy": accuracy(standing),
                "seconds": part.seconds,
            }
        )
    return rows


def _minimum_norm_note(params: AttackParams) -> str:
    if params.radius is None:
        return (
            "Minimum-norm attack without a budget: robust accuracy is near 0 for any model; compare the norms. "
            "In l2_quantiles an image that was not broken counts as infinite (null)."
        )
    norm, eps = params.radius
    return (
        f"Minimum-norm attack: robust accuracy counts images that need more than {norm} {eps:g}; success_rate and the "
        "norms are of any size. In l2_quantiles an image that was not broken counts as infinite (null)."
    )


def _mean(values: Tensor) -> float | None:
    return values.mean().item() if len(values) else None


def _median(values: Tensor) -> float | None:
    return torch.quantile(values, 0.5).item() if len(values) else None


def _norm_quantiles(norms: Tensor) -> dict[str, float | None]:
    """Smallest norm that breaks at least each share of the attacked images; null where the attack did not get there."""
    ordered = norms.sort().values.tolist()
    ranks = {f"{share:g}": max(math.ceil(share * len(ordered)) - 1, 0) for share in _QUANTILES}
    return {share: ordered[rank] if ordered and math.isfinite(ordered[rank]) else None for share, rank in ranks.items()}


def worst_cases(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Images that survive every attack with a budget: overall, and ball by ball, with the attacks that were counted."""
    balls: dict[tuple[str, float], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.params.radius is not None and outcome.attack.access in ("white-box", "black-box"):
            balls[outcome.params.radius].append(outcome)
    if not balls:
        return {"worst_case_accuracy": None, "worst_cases": []}
    cases = []
    for (norm, eps), members in balls.items():
        standing = _surviving_all(members)
        names = [member.attack.name for member in members]
        cases.append(
            {"norm": norm, "eps": eps, "attacks": names, "accuracy": accuracy(standing), "ci95": interval(standing)}
        )
    bounded = [outcome for members in balls.values() for outcome in members]
    return {"worst_case_accuracy": accuracy(_surviving_all(bounded)), "worst_cases": cases}


def _surviving_all(outcomes: Sequence[Outcome]) -> Tensor:
    return torch.stack([outcome.surviving for outcome in outcomes]).all(dim=0)


def requirements(
    params: EvaluationParams, outcomes: Sequence[Outcome], *, clean: float, worst_case: float | None
) -> list[dict[str, Any]]:
    """Each requirement with what was measured; an attack that ran more than once is judged by its lowest accuracy."""
    got: dict[str, float] = {"clean": clean}
    if worst_case is not None:
        got["worst_case"] = worst_case
    for outcome in outcomes:
        name = outcome.attack.name
        if outcome.params.radius is not None:
            got[name] = min(outcome.robust_accuracy, got.get(name, 1.0))
    answers = []
    for name, text in params.require.items():
        requirement = parse_requirement(text)
        met = requirement.meets(got[name], requirement.need)
        answers.append({"attack": name, "need": text, "got": got[name], "met": met})
    return answers
