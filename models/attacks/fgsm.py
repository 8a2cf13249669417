"""Fast gradient sign method (Goodfellow, Shlens, Szegedy 2015, §4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from models.attacks.iterative import ascend
from models.attacks.noise import Noise
from models.attacks.objectives import cross_entropy, held_fixed
from models.attacks.spec import ATTACKS, Attack, BoundedParams
from models.attacks.threat import Linf


class FGSMParams(BoundedParams):
    """FGSM has no parameter but its radius."""

    name: Literal["fgsm"] = "fgsm"
    norm: Literal["linf"] = "linf"


def run(
    model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, params: FGSMParams, *, noise: Noise
) -> Tensor:
    """One step of the whole radius from the clean image; see :class:`models.attacks.spec.Attack`."""
    with held_fixed(model):
        return ascend(
            lambda points: cross_entropy(model(points), labels),
            images,
            threat=Linf(params.eps),
            steps=1,
            step_size=params.eps,
            noise=noise,
            random_start=False,
        )


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
