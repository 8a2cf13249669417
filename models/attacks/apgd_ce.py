"""APGD on the cross-entropy (Croce and Hein 2020)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from models.attacks.apgd import APGDParams, auto_pgd
from models.attacks.noise import Noise
from models.attacks.objectives import cross_entropy
from models.attacks.spec import ATTACKS, Attack
from models.attacks.victim import Victim


class APGDCEParams(APGDParams):
    """APGD-CE; the defaults are those of standard AutoAttack."""

    name: Literal["apgd-ce"] = "apgd-ce"


def run(victim: Victim, images: Tensor, labels: Tensor, params: APGDCEParams, *, noise: Noise) -> Tensor:
    """See :class:`models.attacks.spec.Attack`."""
    return auto_pgd(victim, images, labels, objective=cross_entropy, params=params, noise=noise)


ATTACKS.add(
    "apgd-ce",
    Attack(
        name="apgd-ce",
        title="APGD-CE",
        params=APGDCEParams,
        run=run,
        source="Croce, Hein: Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
        "Attacks, ICML 2020, arXiv:2003.01690",
        formula="z = Π_B(x' + α·sign ∇ CE(h(x'), y)), x' ← Π_B(x' + ¾(z − x') + ¼(x' − x'₋₁)); α from 2ε, halved and "
        "x' back to its best where too few steps climb; L2: α·∇/‖∇‖₂",
        stronger_than=("fgsm",),
    ),
)
