"""Targeted APGD on the cross-entropy: the loss of Croce and Hein 2020, turned towards wrong classes."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from models.attacks.apgd import TargetedAPGDParams, auto_pgd
from models.attacks.minimum_norm import likeliest_others
from models.attacks.noise import Noise
from models.attacks.objectives import cross_entropy_targeted
from models.attacks.spec import ATTACKS, Attack
from models.attacks.victim import Victim


class APGDCETargetedParams(TargetedAPGDParams):
    """APGD-CE towards wrong classes."""

    name: Literal["apgd-ce-targeted"] = "apgd-ce-targeted"


def run(victim: Victim, images: Tensor, labels: Tensor, params: APGDCETargetedParams, *, noise: Noise) -> Tensor:
    """See :class:`models.attacks.spec.Attack`."""
    targets = likeliest_others(victim.logits(images), labels, count=params.targets)
    return auto_pgd(
        victim, images, labels, objective=cross_entropy_targeted, params=params, noise=noise, targets=targets
    )


ATTACKS.add(
    "apgd-ce-targeted",
    Attack(
        name="apgd-ce-targeted",
        title="APGD-T (CE)",
        params=APGDCETargetedParams,
        run=run,
        source="Croce, Hein: Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
        "Attacks, ICML 2020, arXiv:2003.01690",
        formula="APGD climbing −CE(h(x'), t) for each of the likeliest wrong classes t",
        stronger_than=("fgsm",),
    ),
)
