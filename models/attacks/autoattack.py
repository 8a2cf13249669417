"""AutoAttack (Croce and Hein 2020): four parameter-free attacks, one after the other on what is left."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from models.attacks.ensemble import Found, run_parts
from models.attacks.noise import Noise
from models.attacks.spec import ATTACKS, Attack, AttackParams, BoundedParams
from models.attacks.victim import Victim


class AutoAttackParams(BoundedParams):
    """AutoAttack; with the defaults its result is comparable with published ones, with less it is weaker."""

    name: Literal["autoattack"] = "autoattack"
    version: Literal["standard"] = Field(
        "standard", description="standard: apgd-ce, apgd-dlr-targeted, fab-t, square, one restart each"
    )
    steps: int = Field(100, ge=1, le=10_000, description="gradient steps of each APGD run and of FAB")
    targets: int = Field(
        9, ge=1, le=1_000, description="wrong classes that the targeted parts try; at most all of them"
    )
    queries: int = Field(5_000, ge=1, le=1_000_000, description="forward passes of Square for each image")

    @property
    def cost(self) -> float:
        return sum(part.cost for part in parts(self, self.targets + 1))


def parts(params: AutoAttackParams, classes: int) -> tuple[AttackParams, ...]:
    """The attacks that make up ``params`` against a model of ``classes`` classes, in their order."""
    ball = {"norm": params.norm, "eps": params.eps}
    targeted = {"steps": params.steps, "targets": min(params.targets, classes - 1)}

    def part(name: str, **settings: Any) -> AttackParams:
        return ATTACKS[name].params.model_validate({"name": name, **ball, **settings, "restarts": 1})

    return (
        part("apgd-ce", steps=params.steps),
        part("apgd-dlr-targeted", **targeted),
        # Only whether an image breaks inside the ball counts here, so FAB need not go on to a smaller norm.
        part("fab-t", **targeted, stop_inside=True),
        part("square", queries=params.queries),
    )


def run(victim: Victim, images: Tensor, labels: Tensor, params: AutoAttackParams, *, noise: Noise) -> Tensor:
    """See :class:`models.attacks.spec.Attack`."""
    classes = victim.logits(images[:1]).shape[1]
    found = Found.before(victim, images, labels)
    return run_parts(victim, images, labels, parts(params, classes), noise=noise, found=found)


ATTACKS.add(
    "autoattack",
    Attack(
        name="autoattack",
        title="AutoAttack",
        params=AutoAttackParams,
        run=run,
        source="Croce, Hein: Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free "
        "Attacks, ICML 2020, arXiv:2003.01690",
        formula="standard: APGD-CE, then targeted APGD-DLR, targeted FAB and Square, each on the images that are left",
        stronger_than=("fgsm", "pgd", "cw-linf", "apgd-ce", "apgd-dlr-targeted", "square"),
        parts=parts,
    ),
)
