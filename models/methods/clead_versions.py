"""C-LEAD between perturbed versions: the PGD version of one crop is contrasted with the CW version of another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.methods.clead_learner import CLeadLearner
from models.methods.norms import AuxiliaryNorms
from models.networks import ImageModel
from models.progress import Moment


class VersionsLearner(CLeadLearner):
    """Minimizes ½ [(1 − ω) ℓ(x₁, x₂; BN_clean) + (1 + ω) ℓ(x₁', x₂'; BN_adv)], ℓ being NT-Xent of two views.

    x₁ and x₂ are two crops of an image. x₁' is the one view's version of x₁, perturbed against x₂, and x₂' the other
    view's of x₂, perturbed against x₁; the views change crops with every update. Clean crops have batch normalization
    of their own, as in ACL's dual stream; the perturbed versions' is published. ω is 0, or rises as ``fading`` says.
    """

    def __init__(self, encoder: ImageModel, *arguments: Any, **options: Any) -> None:
        super().__init__(encoder, *arguments, **options)
        self._clean_norms = AuxiliaryNorms(encoder)
        self.modules = nn.ModuleDict(
            {"encoder": encoder, "projection": self._projection, "clean_norms": self._clean_norms}
        )

    def contrast(
        self, first: Tensor, second: Tensor, pseudo: Tensor | None, *, moment: Moment, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        one, other = self._views if moment.step % 2 == 0 else reversed(self._views)
        with self.attack_time.running(first.device):
            (moved,) = self._perturb(second, first, pseudo, views=[one], generator=generator)
            (moved_second,) = self._perturb(first, second, pseudo, views=[other], generator=generator)
        adversarial = self._between(self._features(moved, moved_second))
        clean = self._between(self._features(first, second, by=self._clean_norms))
        extra = self._fading.adversarial_weight(moment) if self._fading else 0.0
        loss = ((1 - extra) * clean + (1 + extra) * adversarial) / 2
        return loss, {"clean_loss": clean.detach(), "adversarial_loss": adversarial.detach()}

    def _between(self, features: Tensor) -> Tensor:
        """ℓ of the two views whose features (2N, D) these are."""
        loss: Tensor = self._criterion.contrast(*self._projection(features).chunk(2))
        return loss
