"""Turns what each attack did to each image into the rows, warnings and requirements of an evaluation's result."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.attacks.spec import Attack, AttackParams
from models.data.images import ImageSet
from models.evaluation_spec import EvaluationParams, parse_requirement
from models.statistics import wilson_interval

FEW_IMAGES = 200  # below, the 95 % interval of an accuracy is wider than ±7 points
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Outcome:
    """One attack on N images, on the CPU, in the images' order.

    ``right``: classified right before the attack, boolean (N,). ``fooled``: attacked and then wrong, at any norm.
    ``broken``: fooled inside the attack's ball, or fooled where it has none. ``l2``, ``linf``: float64 (N,) norms of
    the perturbation, infinite where the attack failed or the image was not attacked. ``seconds``: of the attack alone.
    """

    attack: Attack
    params: AttackParams
    right: Tensor
    fooled: Tensor
    broken: Tensor
    l2: Tensor
    linf: Tensor
    seconds: float

    @property
    def surviving(self) -> Tensor:
        """Right before and after the attack, boolean (N,)."""
        return self.right & ~self.broken

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
    params: EvaluationParams,
    images: ImageSet,
    *,
    right: Tensor,
    outcomes: Sequence[Outcome],
    curve: list[dict[str, Any]],
) -> dict[str, Any]:
    """The result's numbers; ``right``: classified right without an attack, boolean (N,). All floats are finite."""
    clean, worst = accuracy(right), worst_cases(outcomes)
    return {
        "threat_model": "white-box",
        "clean_accuracy": clean,
        "clean_ci95": interval(right),
        "clean_per_class": per_class(right, images),
        "attacks": [attack_row(outcome, images) for outcome in outcomes],
        **worst,
        "curve": curve,
        "warnings": warnings(outcomes, len(images)),
        "requirements": requirements(params, outcomes, clean=clean, worst_case=worst["worst_case_accuracy"]),
    }


def accuracy(right: Tensor) -> float:
    """Share of True in a boolean (N,)."""
    return int(right.sum()) / len(right)


def interval(right: Tensor) -> list[float]:
    """95 % interval of :func:`accuracy`."""
    return list(wilson_interval(int(right.sum()), len(right)))


def per_class(right: Tensor, images: ImageSet) -> dict[str, float]:
    """Accuracy of each class that has images."""
    shares = {}
    for index, name in enumerate(images.classes):
        members = images.labels == index
        if members.any():
            shares[name] = accuracy(right[members])
    return shares


def attack_row(outcome: Outcome, images: ImageSet) -> dict[str, Any]:
    """One entry of ``attacks``. Means and medians of the norms are over fooled images, null if there are none."""
    attacked = int(outcome.right.sum())
    row: dict[str, Any] = {
        "name": outcome.attack.name,
        "spec": outcome.params.model_dump(mode="json"),
        "robust_accuracy": outcome.robust_accuracy,
        "ci95": interval(outcome.surviving),
        "success_rate": int(outcome.fooled.sum()) / attacked if attacked else None,
        "mean_l2": _mean(outcome.l2[outcome.fooled]),
        "mean_linf": _mean(outcome.linf[outcome.fooled]),
        "median_l2": _median(outcome.l2[outcome.fooled]),
        "median_linf": _median(outcome.linf[outcome.fooled]),
        "per_class": per_class(outcome.surviving, images),
        "attacked": attacked,
        "seconds": outcome.seconds,
        "images_per_second": attacked / outcome.seconds if attacked and outcome.seconds > 0 else None,
    }
    if outcome.attack.minimum_norm:
        row["l2_quantiles"] = _norm_quantiles(outcome.l2[outcome.right])
        row["note"] = _minimum_norm_note(outcome.params)
    return row


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
        if outcome.params.radius is not None:
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


def warnings(outcomes: Sequence[Outcome], total: int) -> list[dict[str, str]]:
    """Signs that the numbers should not be believed as they stand."""
    found = []
    if total < FEW_IMAGES:
        low, high = wilson_interval(total // 2, total)
        detail = f"{total} images: an accuracy of one half is known to ±{(high - low) / 2:.3f} only"
        found.append({"code": "few-images", "detail": detail})
    for strong in outcomes:
        for weak in outcomes:
            if weak.attack.name not in strong.attack.stronger_than or weak.ball != strong.ball or weak.ball is None:
                continue
            if strong.robust_accuracy > interval(weak.surviving)[1]:
                found.append(_order_warning(strong, weak))
    return found


def _order_warning(strong: Outcome, weak: Outcome) -> dict[str, str]:
    detail = (
        f"{strong.attack.title} leaves {strong.robust_accuracy:.3f}, {weak.attack.title} only "
        f"{weak.robust_accuracy:.3f} in the same ball ({weak.ball}): the stronger attack was too weak (steps, step "
        "size) or the model masks its gradients"
    )
    return {"code": f"{strong.attack.name}-above-{weak.attack.name}", "detail": detail}


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
