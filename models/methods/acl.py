"""ACL: adversarial contrastive learning with one or two attacked views (Jiang et al. 2020, arXiv 2010.13337)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.methods.contrastive import ContrastiveAttack, ContrastiveLearner, ContrastiveParams
from models.methods.norms import AuxiliaryNorms
from models.methods.spec import METHODS, Augment, Learner, Method
from models.networks import ImageModel
from models.progress import Moment

Streams = Literal["a2a", "a2s", "ds"]


class ACLParams(ContrastiveParams):
    """Defaults: dual stream, 5 attack steps of 2/255 inside 8/255, and the shared ones."""

    method: Literal["acl"] = Field("acl", description="name of the method; see GET /methods")
    streams: Streams = Field(
        "ds",
        description="a2a: both views attacked; a2s: one of them; ds: a clean pair and an attacked pair. Attacked views "
        "and clean ones have batch normalization of their own, of which the attacked ones' is published",
    )
    attack: ContrastiveAttack = ContrastiveAttack()

    @property
    def second_norms(self) -> bool:
        return self.streams != "a2a"


class ACLLearner(ContrastiveLearner):
    """Minimizes ℓ(x₁', x₂') (a2a), ℓ(x₁', x₂) (a2s) or ½ [ℓ(x₁, x₂) + ℓ(x₁', x₂')] (ds; Fig. 1).

    Attacked and clean views share all weights but batch normalization's.
    """

    def __init__(
        self,
        encoder: ImageModel,
        augment: Augment,
        params: ContrastiveParams,
        *,
        streams: Streams,
        attack: ContrastiveAttack,
    ) -> None:
        super().__init__(encoder, augment, params)
        self._streams = streams
        self._attack = attack
        self._clean_norms = None if streams == "a2a" else AuxiliaryNorms(encoder)
        if self._clean_norms is not None:
            self.modules = nn.ModuleDict(
                {"encoder": encoder, "projection": self._projection, "clean_norms": self._clean_norms}
            )

    def contrast(
        self, first: Tensor, second: Tensor, *, moment: Moment, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if self._streams == "a2s":
            clean = self._clean_norms
            attacked = self.attack_one(first, second, attack=self._attack, generator=generator, anchors_by=clean)
            return self.criterion(*self.embed(attacked), *self.embed(second, by=clean)), {}
        moved = self.attack_both(first, second, attack=self._attack, generator=generator)
        adversarial = self.criterion(*self.embed(*moved))
        if self._clean_norms is None:
            return adversarial, {}
        clean = self.criterion(*self.embed(first, second, by=self._clean_norms))
        extra = self.adversarial_weight(moment)
        loss = ((1 - extra) * clean + (1 + extra) * adversarial) / 2
        return loss, {"clean_loss": clean.detach(), "adversarial_loss": adversarial.detach()}

    def adversarial_weight(self, moment: Moment) -> float:
        """ω: what the attacked pair's weight has above the clean pair's, in [0, 1]."""
        del moment
        return 0.0


def build(params: ACLParams, model: ImageModel, *, base: ImageModel | None, augment: Augment) -> Learner:
    return ACLLearner(model, augment, params, streams=params.streams, attack=params.attack)


METHODS.add(
    "acl",
    Method(
        name="acl",
        kind="pretrain",
        title="ACL",
        params=ACLParams,
        build=build,
        paper="Jiang et al. 2020, Robust pre-training by adversarial contrastive learning, arXiv 2010.13337",
        formula="ds: min ½ [ℓ(x₁, x₂; BN_clean) + ℓ(x₁', x₂'; BN_adv)], (x₁', x₂') = argmax of ℓ(x₁', x₂'; BN_adv)",
        few_updates=400,
    ),
)
