"""DynACL: ACL whose augmentation fades while the attacked pair gains weight (Luo et al. 2023, arXiv 2303.01289).

The authors' program sends the second view through a momentum encoder and publishes that; this trains both views'
encoder alone, as the paper's formula has it (``ema`` publishes a moving average).

Its second phase, ``++``, is a ``self-training`` by TRADES' objective from the encoder, on the clusters that k-means
finds in its features; the authors' program first trains the head by itself for 10 epochs, which is left out.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from models.data.loader import Augmentation
from models.methods.acl import ACLLearner
from models.methods.contrastive import ContrastiveAttack, ContrastiveParams
from models.methods.fading import Fading, FadingSpec
from models.methods.spec import METHODS, Augment, Learner, Method
from models.networks import ImageModel
from models.progress import Moment


class DynACLParams(FadingSpec, ContrastiveParams):
    """Defaults: those of the fading, otherwise ACL's."""

    method: Literal["dynacl"] = Field("dynacl", description="name of the method; see GET /methods")
    attack: ContrastiveAttack = ContrastiveAttack()

    @property
    def second_norms(self) -> bool:
        return True


class DynACLLearner(ACLLearner):
    """Minimizes ½ [(1 − ω) ℓ(x₁, x₂; BN_clean) + (1 + ω) ℓ(x₁', x₂'; BN_adv)] with ω = λ (1 − strength)."""

    def __init__(self, encoder: ImageModel, params: DynACLParams) -> None:
        super().__init__(encoder, Augmentation(params.augmentation), params, streams="ds", attack=params.attack)
        self.fading = Fading(params, params.augmentation)

    def augmentation(self, moment: Moment) -> Augment:
        return self.fading.augmentation(moment)

    def adversarial_weight(self, moment: Moment) -> float:
        return self.fading.adversarial_weight(moment)

    def remarks(self) -> list[dict[str, str]]:
        return self.fading.remarks()


def build(params: DynACLParams, model: ImageModel, *, base: ImageModel | None, augment: Augment) -> Learner:
    return DynACLLearner(model, params)


METHODS.add(
    "dynacl",
    Method(
        name="dynacl",
        kind="pretrain",
        title="DynACL",
        params=DynACLParams,
        build=build,
        paper="Luo et al. 2023, Rethinking the effect of data augmentation in adversarial contrastive learning, "
        "arXiv 2303.01289",
        formula="min ½ [(1 − ω) ℓ(x₁, x₂; BN_clean) + (1 + ω) ℓ(x₁', x₂'; BN_adv)], "
        "ω = λ (1 − strength), strength 1 → 0",
        few_updates=400,
    ),
)
