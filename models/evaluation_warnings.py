"""Signs that an evaluation's numbers should not be believed as they stand, each with its evidence and what to do.

Thresholds are far from what honest models show (networks trained plainly or with PGD: none of these signs at all) and
from what broken ones do: a front that quantizes its pixels has no gradient anywhere, a model collapsed by single-step
training keeps most of its accuracy under FGSM and next to none under PGD.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from models.attacks.spec import ATTACKS
from models.evaluation_evidence import Evidence
from models.evaluation_health import SWEEP, huge_ball, sweep_eps
from models.evaluation_report import Outcome, interval
from models.evaluation_spec import EvaluationParams, parse_requirement
from models.statistics import wilson_interval

FEW_IMAGES = 200  # below, the 95 % interval of an accuracy is wider than ±7 points
NOTICEABLE = 0.05  # of the images that were looked at, and two of them: 5 points are the sampling error of 400 images
COLLAPSED = (1 / 2, 1 / 3)  # FGSM keeps the first share of clean accuracy, PGD not the second share of that; see below
TINY_L2 = 16 / 255  # the smallest L2 radius in use (0.25 on CIFAR, 0.5 usually) is far above the largest Linf one
_Z95_SQUARED = 3.84


def warnings(
    params: EvaluationParams,
    evidence: Evidence,
    *,
    outcomes: Sequence[Outcome],
    requirements: Iterable[Mapping[str, Any]],
    shape: tuple[int, ...],
) -> list[dict[str, str]]:
    """Each with ``code``, ``detail`` (the evidence) and ``advice``; ``requirements``: as in the result."""
    return [
        *_sample(len(evidence), requirements),
        *_confused_norms(params),
        *_order(outcomes),
        *_balls(outcomes),
        *_gradients(evidence.health),
        *_logits(evidence.health),
        *_huge(params, evidence.health, shape=shape),
        *_sweep(params, evidence),
    ]


def _warning(code: str, detail: str, advice: str) -> dict[str, str]:
    return {"code": code, "detail": detail, "advice": advice}


def _sample(total: int, requirements: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """Too few images for any claim, or for a requirement: its bound lies inside the measured interval."""
    if total < FEW_IMAGES:
        low, high = wilson_interval(total // 2, total)
        detail = f"{total} images: an accuracy of one half is known to ±{(high - low) / 2:.3f} only"
        yield _warning("few-images", detail, f"evaluate on {FEW_IMAGES} images or more")
    for row in requirements:
        need, got = parse_requirement(row["need"]).need, row["got"]
        low, high = wilson_interval(round(got * total), total)
        at_an_end = need == got == 1 or (need == got == 0 and not row["met"])  # which no sample reaches for sure
        if not (low < need < high or at_an_end):
            continue
        detail = f"{row['attack']} {row['need']}: {got:.3f} on {total} images, 95 % interval {low:.3f} to {high:.3f}"
        advice = "the sample cannot tell whether the requirement is met; evaluate on more images"
        if got != need:
            # Where the score interval around this accuracy ends at the bound.
            enough = math.ceil(_Z95_SQUARED * need * (1 - need) / (got - need) ** 2)
            advice += f" (about {enough}, should the accuracy stay)"
        yield _warning("undecided-requirement", detail, advice)


def _confused_norms(params: EvaluationParams) -> Iterator[dict[str, str]]:
    for attack in params.attacks:
        norm, eps = attack.radius or ("linf", 0.0)
        if norm == "l2" and 0 < eps <= TINY_L2:
            detail = (
                f"{attack.name} has an l2 radius of {eps:g}, a usual size for linf; in l2 it hardly changes a pixel"
            )
            advice = 'give an l2 radius such as 0.5 ("128/255"), or norm: linf'
            yield _warning("l2-eps-looks-like-linf", detail, advice)


def _order(outcomes: Sequence[Outcome]) -> Iterator[dict[str, str]]:
    """An attack that leaves more than a weaker one in the same ball, beyond the weaker one's 95 % interval."""
    for strong in outcomes:
        for weak in outcomes:
            if weak.attack.name not in strong.attack.stronger_than or weak.ball != strong.ball or weak.ball is None:
                continue
            if strong.robust_accuracy > interval(weak.surviving)[1]:
                detail = (
                    f"{strong.attack.title} leaves {strong.robust_accuracy:.3f}, {weak.attack.title} only "
                    f"{weak.robust_accuracy:.3f} in the same ball ({_named(weak)}), where it should leave no more"
                )
                advice = (
                    "the stronger attack was too weak or the model masks its gradients: give it more steps and "
                    "restarts or another step size, and add autoattack or square"
                )
                yield _warning(f"{strong.attack.name}-above-{weak.attack.name}", detail, advice)


def _balls(outcomes: Sequence[Outcome]) -> Iterator[dict[str, str]]:
    """What the attacks of one ball say together."""
    balls: dict[Any, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.params.radius is not None and outcome.params.radius[1] > 0:
            balls[outcome.params.radius].append(outcome)
    for members in balls.values():
        white = [outcome for outcome in members if outcome.attack.access == "white-box"]
        single = [outcome for outcome in white if _is_single_step(outcome)]
        iterative = [outcome for outcome in white if not _is_single_step(outcome)]
        for weak in single:
            yield from _single_step(weak, iterative)
        if iterative:
            yield from _black_box(members)


def _is_single_step(outcome: Outcome) -> bool:
    return outcome.params.cost <= 1 and not outcome.attack.minimum_norm


def _single_step(weak: Outcome, iterative: Sequence[Outcome]) -> Iterator[dict[str, str]]:
    """A single-step number that nothing stands behind.

    Catastrophic overfitting (Wong, Rice and Kolter 2020): FGSM keeps more than half of clean accuracy, an iterative
    attack less than a third of that. On the digits a network collapsed by FGSM training had 0.85 clean, 0.53 FGSM and
    0.03 PGD; a plain one, at the radius where FGSM left it 0.54 of 0.99, still 0.37 under PGD.
    """
    name, left = weak.attack.title, weak.robust_accuracy
    if not iterative:
        detail = f"{name} leaves {left:.3f} ({_named(weak)}); no iterative white-box attack was run in that ball"
        advice = "one step proves no robustness: add pgd, or autoattack, with the same norm and eps"
        yield _warning("single-step-only", detail, advice)
        return
    strong = min(iterative, key=lambda outcome: outcome.robust_accuracy)
    clean = int(weak.right.sum()) / len(weak.right)
    kept, ratio = COLLAPSED
    if left > kept * clean and strong.robust_accuracy < ratio * left:
        detail = (
            f"{name} leaves {left:.3f} of {clean:.3f}, {strong.attack.title} {strong.robust_accuracy:.3f} in the same "
            f"ball ({_named(weak)}): the model has learned to answer single steps alone"
        )
        advice = f"report {strong.attack.title}, not {name}; train against several steps (pgd-at), or stop earlier"
        yield _warning("catastrophic-overfitting", detail, advice)


def _black_box(members: Sequence[Outcome]) -> Iterator[dict[str, str]]:
    """Images that fall to queries alone though no white-box attack of the ball broke them.

    A few are normal: PGD-20 misses a point or two that any other attack may find, and after AutoAttack's first three
    parts Square finds next to nothing.
    """
    broken = {access: torch.zeros_like(members[0].right) for access in ("white-box", "black-box")}
    names = []
    for outcome in members:
        for name, fell in _broken_by(outcome):
            access = ATTACKS[name].access
            if access in broken:
                broken[access] = broken[access] | fell
            if access == "black-box" and name not in names:
                names.append(name)
    alone = int((broken["black-box"] & ~broken["white-box"]).sum())
    if _noticeable(alone, len(members[0].right)):
        detail = (
            f"{' and '.join(names)} broke {alone} of {len(members[0].right)} images that no white-box attack broke in "
            f"the same ball ({_named(members[0])})"
        )
        advice = (
            "the white-box attacks were too weak, or the gradients mislead: add autoattack or more steps; if queries "
            "still break more, rely on the worst case, and attack a differentiable copy of what hides them "
            "(straight-through rounding, no noise)"
        )
        yield _warning("black-box-beats-white-box", detail, advice)


def _broken_by(outcome: Outcome) -> Iterator[tuple[str, Tensor]]:
    """Who broke which images, boolean (N,): the parts of an ensemble each for itself."""
    if not outcome.seen.parts:
        yield outcome.attack.name, outcome.seen.broken
    for part in outcome.seen.parts:
        yield part.name, part.broken


def _gradients(health: Mapping[str, float]) -> Iterator[dict[str, str]]:
    images = _images(health)
    masked, saturated = int(health.get("zero_gradients", 0)), int(health.get("saturated", 0))
    if _noticeable(masked, images):
        detail = f"the gradient is zero at (nearly) every pixel of {masked} of {images} images"
        advice = (
            "gradient attacks move nothing there: look for rounding, quantization or a saturated output, attack a "
            "copy with a straight-through gradient, and add square"
        )
        yield _warning("zero-gradients", detail, advice)
    if _noticeable(saturated, images):
        detail = f"the cross-entropy of {saturated} of {images} images is so small that its float32 gradient is zero"
        advice = "fgsm and pgd move nothing there: add cw-linf or apgd-dlr, whose objectives do not saturate"
        yield _warning("saturated-loss", detail, advice)


def _logits(health: Mapping[str, float]) -> Iterator[dict[str, str]]:
    images = _images(health)
    unstable, probabilities = int(health.get("unstable", 0)), int(health.get("probabilities", 0))
    if unstable:
        detail = f"two forward passes of the same pixels differ for {unstable} of {images} images"
        advice = (
            "a verdict from one pass counts luck as robustness: switch the noise off, or fix its seed in the model, "
            "or average many passes in its forward"
        )
        yield _warning("stochastic-model", detail, advice)
    if images and probabilities == images:  # what logits are not even once but by a rare chance
        detail = f"the outputs of all {images} images lie in [0, 1] and sum to 1"
        advice = (
            "the model seems to end in a softmax, and every attack applies its own: leave it out, or return the "
            "logarithm of the probabilities"
        )
        yield _warning("probabilities-as-logits", detail, advice)


def _huge(params: EvaluationParams, health: Mapping[str, float], *, shape: tuple[int, ...]) -> Iterator[dict[str, str]]:
    images, left = _images(health), int(health.get("huge_survivors", 0))
    if _noticeable(left, images):
        norm, eps = huge_ball(params, shape)
        detail = (
            f"PGD-20 in the ball {norm} {eps:g} leaves {left} of {images} images that the model gets wrong as plain "
            "grey, which lies in that ball"
        )
        advice = (
            "the attack fails, not the model: its gradients are masked; look for zero gradients, noise or saturation, "
            "and add square and cw-linf"
        )
        yield _warning("survives-huge-eps", detail, advice)


def _sweep(params: EvaluationParams, evidence: Evidence) -> Iterator[dict[str, str]]:
    """FGSM that leaves more at a larger radius: more than noise, and than one class named for everything, explains."""
    images, eps = _images(evidence.health), sweep_eps(params)
    if not images or eps is None:
        return
    counts = [int(evidence.health.get(f"sweep_{name}", 0)) for name in SWEEP]
    one_class = int(evidence.labels[evidence.right].bincount().max()) / int(evidence.right.sum())
    for small, large in pairwise(counts):
        if large / images > max(wilson_interval(small, images)[1], small / images + one_class):
            detail = (
                f"of {images} images FGSM leaves {counts[0]}, {counts[1]} and {counts[2]} at half, once and twice the "
                f"radius {eps:g}"
            )
            advice = (
                "a larger ball holds the smaller one: the gradient points nowhere useful at this distance; use "
                "attacks of many small steps, and square, and check smaller radii"
            )
            yield _warning("non-monotone", detail, advice)
            return


def _images(health: Mapping[str, float]) -> int:
    return int(health.get("images", 0))


def _noticeable(count: int, images: int) -> bool:
    return count >= 2 and count >= NOTICEABLE * images


def _named(outcome: Outcome) -> str:
    ball = outcome.ball
    assert ball is not None
    return f"{ball['norm']} {ball['eps']:g}"
