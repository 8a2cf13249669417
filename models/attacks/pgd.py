"""Projected gradient descent on the cross-entropy, Linf and L2 (Madry et al. 2018, §2.1)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from models.attacks.iterative import search
from models.attacks.noise import Noise
from models.attacks.objectives import cross_entropy
from models.attacks.spec import ATTACKS, Attack, SearchParams
from models.attacks.victim import Victim


class PGDParams(SearchParams):
    """PGD; the defaults are PGD-20 at 8/255 with steps of 2/255."""

    name: Literal["pgd"] = "pgd"


def run(
    victim: Victim, images: Tensor, labels: Tensor, params: PGDParams, *, noise: Noise, start: Tensor | None = None
) -> Tensor:
    """See :class:`models.attacks.spec.Attack`."""
    return search(victim, images, labels, loss=cross_entropy, params=params, noise=noise, start=start)


ATTACKS.add(
    "pgd",
    Attack(
        name="pgd",
        title="PGD",
        params=PGDParams,
        run=run,
        warm_start=True,
        source="Madry et al.: Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, "
        "arXiv:1706.06083",
        formula="x' ← Π_B(x, ε)(x' + α·sign ∇ CE(h(x'), y)); L2: α·∇/‖∇‖₂; any iterate that is misclassified counts",
        stronger_than=("fgsm",),
    ),
)
