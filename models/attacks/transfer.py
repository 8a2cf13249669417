"""Transfer: images crafted on another model, judged on this one (Papernot et al. 2016, arXiv:1605.07277)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator
from torch import Tensor

from models.attacks.noise import Noise
from models.attacks.parsing import AnyAttack, refusal
from models.attacks.spec import ATTACKS, Attack, AttackParams, BoundedParams, Norm, SearchParams
from models.attacks.victim import Victim
from models.references import ModelRef


def _crafts(attack: Attack) -> bool:
    """Whether an attack can craft images for another model: it has a ball, and a model to look into."""
    return attack.access == "white-box" and not attack.minimum_norm and issubclass(attack.params, BoundedParams)


class TransferParams(AttackParams):
    """An attack on another model.

    The attack runs all of its steps: images that just cross the other model's boundary transfer badly.
    """

    name: Literal["transfer"] = "transfer"
    source: ModelRef = Field(description="registered classifier that the images are crafted on")
    attack: Annotated[BoundedParams, AnyAttack(_crafts)] = Field(
        description="how they are crafted: a bounded white-box attack; where it has a verdict, that is last; "
        "APGD and AutoAttack stop an image where the source is fooled"
    )

    @field_validator("attack")
    @classmethod
    def _every_step(cls, attack: BoundedParams) -> BoundedParams:
        if not isinstance(attack, SearchParams) or attack.verdict == "last":
            return attack
        if "verdict" in attack.model_fields_set:
            raise refusal(("verdict",), attack.verdict, "images that are to transfer take every step; give last")
        return attack.model_copy(update={"verdict": "last"})

    @property
    def radius(self) -> tuple[Norm, float]:
        return self.attack.radius

    @property
    def cost(self) -> float:
        return self.attack.cost


def run(victim: Victim, images: Tensor, labels: Tensor, params: TransferParams, *, noise: Noise) -> Tensor:
    """Attack ``victim.sources[params.source]`` and return what comes of it; see :class:`models.attacks.spec.Attack`.

    Raises ValueError where that model is not at hand, or answers in another number of classes.
    """
    source = victim.sources.get(params.source)
    if source is None:
        known = ", ".join(victim.sources) or "none"
        raise ValueError(f"the transfer attack's source {params.source!r} was not handed in; there are: {known}")
    theirs, ours = (model.logits(images[:1]).shape[1:] for model in (source, victim))
    if theirs != ours:
        raise ValueError(f"the source {params.source!r} answers {tuple(theirs)} an image, the victim {tuple(ours)}")
    crafted: Tensor = ATTACKS[params.attack.name].run(source, images, labels, params.attack, noise=noise)
    source.forget()
    return crafted


ATTACKS.add(
    "transfer",
    Attack(
        name="transfer",
        title="Transfer",
        params=TransferParams,
        run=run,
        source="Papernot, McDaniel, Goodfellow: Transferability in Machine Learning: from Phenomena to Black-Box "
        "Attacks using Adversarial Samples, arXiv:1605.07277",
        formula="x' from a white-box attack on another model's h̃, judged by h",
        access="transfer",
    ),
)
