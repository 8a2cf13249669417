"""Targeted APGD on the difference of logits ratio, APGD-T of AutoAttack (Croce and Hein 2020)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from models.attacks.apgd import TargetedAPGDParams, auto_pgd
from models.attacks.minimum_norm import likeliest_others
from models.attacks.noise import Noise
from models.attacks.objectives import dlr_targeted
from models.attacks.spec import ATTACKS, Attack
from models.attacks.victim import Victim


class APGDDLRTargetedParams(TargetedAPGDParams):
    """APGD-T; the defaults are those of standard AutoAttack."""

    name: Literal["apgd-dlr-targeted"] = "apgd-dlr-targeted"


def run(victim: Victim, images: Tensor, labels: Tensor, params: APGDDLRTargetedParams, *, noise: Noise) -> Tensor:
    """See :class:`models.attacks.spec.Attack`."""
    targets = likeliest_others(victim.logits(images), labels, count=params.targets)
    return auto_pgd(victim, images, labels, objective=dlr_targeted, params=params, noise=noise, targets=targets)


ATTACKS.add(
    "apgd-dlr-targeted",
    Attack(
        name="apgd-dlr-targeted",
        title="APGD-T (DLR)",
        params=APGDDLRTargetedParams,
        run=run,
        source="Croce, Hein: Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
        "Attacks, ICML 2020, arXiv:2003.01690",
        formula="APGD climbing (h_t − h_y) / (h_π1 − (h_π3 + h_π4)/2) for each of the likeliest wrong classes t, π: "
        "logits from high to low; 3 classes: h_π2 + h_π3; 2 classes: without the denominator",
        stronger_than=("fgsm",),
    ),
)
