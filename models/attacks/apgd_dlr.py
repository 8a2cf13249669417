"""APGD on the difference of logits ratio (Croce and Hein 2020)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from models.attacks.apgd import APGDParams, auto_pgd
from models.attacks.noise import Noise
from models.attacks.objectives import dlr
from models.attacks.spec import ATTACKS, Attack
from models.attacks.victim import Victim


class APGDDLRParams(APGDParams):
    """APGD-DLR; the defaults are the paper's."""

    name: Literal["apgd-dlr"] = "apgd-dlr"


def run(victim: Victim, images: Tensor, labels: Tensor, params: APGDDLRParams, *, noise: Noise) -> Tensor:
    """See :class:`models.attacks.spec.Attack`."""
    return auto_pgd(victim, images, labels, objective=dlr, params=params, noise=noise)


ATTACKS.add(
    "apgd-dlr",
    Attack(
        name="apgd-dlr",
        title="APGD-DLR",
        params=APGDDLRParams,
        run=run,
        source="Croce, Hein: Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
        "Attacks, ICML 2020, arXiv:2003.01690",
        formula="APGD climbing (max_{i≠y} h_i − h_y) / (h_π1 − h_π3), π: logits from high to low; 2 classes: without "
        "the denominator",
        stronger_than=("fgsm",),
    ),
)
