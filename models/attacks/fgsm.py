"""Fast gradient sign method (Goodfellow, Shlens, Szegedy 2015, §4)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from models.attacks.iterative import climb
from models.attacks.noise import Noise
from models.attacks.objectives import cross_entropy
from models.attacks.spec import ATTACKS, Attack, BoundedParams
from models.attacks.threat import Linf
from models.attacks.victim import Victim


class FGSMParams(BoundedParams):
    """FGSM has no parameter but its radius."""

    name: Literal["fgsm"] = "fgsm"
    norm: Literal["linf"] = "linf"


def run(victim: Victim, images: Tensor, labels: Tensor, params: FGSMParams, *, noise: Noise) -> Tensor:
    """One step of the whole radius from the clean image; see :class:`models.attacks.spec.Attack`."""
    del noise  # The attack starts at the image.
    gradient = victim.gradient(images, cross_entropy, labels).gradient
    return climb(images, gradient, images=images, threat=Linf(params.eps), step_size=params.eps)


ATTACKS.add(
    "fgsm",
    Attack(
        name="fgsm",
        title="FGSM",
        params=FGSMParams,
        run=run,
        source="Goodfellow et al.: Explaining and Harnessing Adversarial Examples, ICLR 2015, arXiv:1412.6572",
        formula="x' = clamp(x + ε·sign ∇ₓ CE(h(x), y), 0, 1)",
    ),
)
