"""An augmentation that fades while the attacked pair gains weight (DynACL, Luo et al. 2023, arXiv 2303.01289)."""

from __future__ import annotations

from pydantic import Field

from models.data.loader import Augmentation
from models.methods.spec import Augment
from models.progress import Moment
from models.specs import AugmentationSpec, Spec


class FadingSpec(Spec):
    """Defaults are DynACL's: strength 1 → 1/20 in 20 stages (every 50 of 1,000 epochs), λ 2/3."""

    stages: int = Field(
        20,
        ge=1,
        le=100_000,
        description="parts of the training; from each to the next the augmentation's strength falls by 1/stages",
    )
    reweighting: float = Field(
        2 / 3,
        ge=0,
        le=1,
        description="λ: the attacked pair gains the weight λ (1 − strength); clead's pairs with the image have none",
    )


class Fading:
    """Strength of the ``strongest`` augmentation over a training, and the weight ω that the attacked pair gains."""

    def __init__(self, spec: FadingSpec, strongest: AugmentationSpec) -> None:
        self._spec = spec
        self._strongest = strongest

    def strength(self, moment: Moment) -> float:
        """Of the augmentation, from 1 at the start down to 1/stages in the last stage."""
        stages = self._spec.stages
        return 1 - moment.step * stages // moment.total / stages

    def augmentation(self, moment: Moment) -> Augment:
        return Augmentation(self._strongest.weaker(self.strength(moment)))

    def remarks(self) -> list[dict[str, str]]:
        """A warning where nothing fades."""
        if self._spec.stages == 1:
            return [{"code": "nothing-fades", "detail": "one stage is all at full strength: give stages 2 or more"}]
        if self._strongest.weaker(0) != self._strongest:
            return []
        detail = "crops and flips do not fade: give augmentation a crop_area below 1, jitter or gray"
        return [{"code": "nothing-fades", "detail": detail}]

    def adversarial_weight(self, moment: Moment) -> float:
        """ω = λ (1 − strength), in [0, 1]."""
        return self._spec.reweighting * (1 - self.strength(moment))
