"""CW-Linf: PGD on Carlini and Wagner's margin instead of the cross-entropy."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from models.attacks.iterative import search
from models.attacks.noise import Noise
from models.attacks.objectives import margin
from models.attacks.spec import ATTACKS, Attack, SearchParams
from models.attacks.victim import Victim


class CWLinfParams(SearchParams):
    """The "CW" of adversarial-training tables: 20 steps at 8/255 by default."""

    name: Literal["cw-linf"] = "cw-linf"
    norm: Literal["linf"] = "linf"


def run(
    victim: Victim, images: Tensor, labels: Tensor, params: CWLinfParams, *, noise: Noise, start: Tensor | None = None
) -> Tensor:
    """See :class:`models.attacks.spec.Attack`."""
    return search(victim, images, labels, loss=margin, params=params, noise=noise, start=start)


ATTACKS.add(
    "cw-linf",
    Attack(
        name="cw-linf",
        title="CW-Linf",
        params=CWLinfParams,
        run=run,
        warm_start=True,
        source="margin f₆ of Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks, IEEE S&P 2017, "
        "arXiv:1608.04644, climbed by PGD as in Madry et al. 2018, §5",
        formula="x' ← Π_B(x, ε)(x' + α·sign ∇[max_{i≠y} h_i(x') − h_y(x')]); any misclassified iterate counts",
    ),
)
