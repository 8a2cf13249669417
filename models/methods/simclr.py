"""SimCLR: two augmented views of an image together, other images apart (Chen et al. 2020, arXiv 2002.05709).

The control of every robust method here: its encoder is no defence.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from models.methods.contrastive import ContrastiveLearner, ContrastiveParams
from models.methods.spec import METHODS, Augment, Learner, Method
from models.networks import ImageModel


class SimCLRParams(ContrastiveParams):
    """Defaults: the shared ones, which are SimCLR's on CIFAR-10 (App. B.9) but for the learning rate and epochs."""

    method: Literal["simclr"] = Field("simclr", description="name of the method; see GET /methods")


class SimCLRLearner(ContrastiveLearner):
    """:class:`ContrastiveLearner` as it is, and a word about what it is not."""

    def remarks(self) -> list[dict[str, str]]:
        detail = "simclr never sees an attacked image and is no defence; for a robust encoder take dynacl, acl or clead"
        return [{"code": "no-defence", "detail": detail}]


def build(params: SimCLRParams, model: ImageModel, *, base: ImageModel | None, augment: Augment) -> Learner:
    return SimCLRLearner(model, augment, params)


METHODS.add(
    "simclr",
    Method(
        name="simclr",
        kind="pretrain",
        title="SimCLR",
        params=SimCLRParams,
        build=build,
        paper="Chen et al. 2020, A simple framework for contrastive learning of visual representations, "
        "arXiv 2002.05709",
        formula="min ℓ(x₁, x₂; τ), ℓ = NT-Xent over the 2N views",
        few_updates=400,
    ),
)
