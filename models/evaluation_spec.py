"""What ``POST /evaluate`` may ask for."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from typing import Annotated, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from models.attacks.parsing import AnyAttack, detail, shown
from models.attacks.spec import ATTACKS, AttackParams, BoundedParams
from models.fields import Pixels, pixel_schema
from models.references import ModelRef
from models.specs import EvaluationData, Precision, Seed, Spec

MAX_EXAMPLES = 64


class Requirement(NamedTuple):
    """A bound that an accuracy must meet: ``>=0.40`` or ``>0.40``."""

    meets: Callable[[float, float], bool]
    need: float


_REQUIREMENT = re.compile(r"(>=|>)\s*(0(?:\.\d+)?|1(?:\.0+)?|\.\d+)")


def parse_requirement(text: str) -> Requirement:
    """Read ``>=0.40`` or ``>0.40``; the accuracy is a fraction in [0, 1]. Raises ValueError."""
    match = _REQUIREMENT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'{text!r} is not a requirement; give ">=0.40" or ">0.40", an accuracy in [0, 1]')
    return Requirement(operator.ge if match[1] == ">=" else operator.gt, float(match[2]))


class CurveSpec(Spec):
    """Robust accuracy over the radius of one attack."""

    attack: str = Field(
        max_length=100,
        description="a bounded attack; its other parameters are those of its first entry in attacks, "
        "else its defaults; an iterative attack's step keeps its share of the radius",
    )
    eps: list[Annotated[Pixels, Field(ge=0, le=1_000, json_schema_extra=pixel_schema())]] = Field(
        min_length=1, max_length=50, description="radii, pixels in [0, 1]"
    )


class EvaluationParams(Spec):
    """Attack a classifier on a part of a data set and count what it still gets right."""

    model: ModelRef = Field(description="a registered classifier")
    dataset: EvaluationData
    attacks: list[Annotated[AttackParams, AnyAttack()]] = Field(
        min_length=1, max_length=32, description="attacks, each on its own; see GET /attacks"
    )
    curve: CurveSpec | None = Field(None, description="one attack at several radii; null: no curve")
    examples: int = Field(
        16, ge=0, le=MAX_EXAMPLES, description="attacked images to keep as pictures, a random sample of them"
    )
    require: dict[Annotated[str, Field(max_length=100)], Annotated[str, Field(max_length=40)]] = Field(
        default_factory=dict,
        max_length=40,
        description='lowest accuracy to meet, such as ">=0.40", by attack name, "clean" or "worst_case"; '
        "an attack that was asked for more than once must meet it each time",
    )
    batch_size: int = Field(
        100, ge=1, le=10_000, description="images attacked at a time; in float32 it does not change a verdict"
    )
    precision: Precision = Field(
        "auto",
        description="of gradients; auto: bfloat16 where the hardware computes it, else float32. Whether an image is "
        "broken is always decided in float32",
    )
    shard_size: int | None = Field(
        1000,
        ge=50,
        le=1_000_000,
        description="an evaluation of more images is cut into shards of about this many, which any number of workers "
        "take; null: never. In float32 it does not change a verdict",
    )
    sanity_checks: bool = Field(
        True,
        description="look at up to 100 images for signs that the numbers cannot be believed (masked gradients, a "
        "stochastic model, …); about a tenth of the time of PGD-20 on 500 images",
    )
    compile: bool = Field(False, description="run gradients through torch.compile: pays off on long runs of one model")
    seed: Seed = 0

    def curve_points(self) -> list[BoundedParams]:
        """The curve's attacks by growing radius, each radius once; empty without a curve."""
        if self.curve is None:
            return []
        base = self._curve_base(self.curve.attack)
        return [base.at(eps) for eps in sorted(set(self.curve.eps))]

    def _curve_base(self, name: str) -> BoundedParams:
        for attack in self.attacks:
            if attack.name == name and isinstance(attack, BoundedParams):
                return attack
        base = ATTACKS[name].params()  # type: ignore[call-arg]  # every field of a registered attack has a default
        assert isinstance(base, BoundedParams)
        return base

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        errors = [*self._repeated_attacks(), *self._wrong_curve(), *self._wrong_requirements()]
        if errors:
            raise ValidationError.from_exception_data(type(self).__name__, errors)
        return self

    def _repeated_attacks(self) -> Iterator[InitErrorDetails]:
        for index, attack in enumerate(self.attacks):
            first = self.attacks.index(attack)
            if first < index:
                yield detail(("attacks", index), attack.name, f"the same attack as /attacks/{first}; give it once")

    def _wrong_curve(self) -> Iterator[InitErrorDetails]:
        if self.curve is None:
            return
        bounded = [entry.name for entry in ATTACKS.entries() if issubclass(entry.params, BoundedParams)]
        if self.curve.attack not in bounded:
            message = f"{shown(self.curve.attack)} has no radius to vary; give one of: {', '.join(bounded)}"
            yield detail(("curve", "attack"), self.curve.attack, message)
            return
        base = self._curve_base(self.curve.attack)
        for index, eps in enumerate(self.curve.eps):
            try:
                base.at(eps)
            except ValidationError as error:
                yield detail(("curve", "eps", index), eps, error.errors()[0]["msg"].removeprefix("Value error, "))

    def _wrong_requirements(self) -> Iterator[InitErrorDetails]:
        asked = {attack.name for attack in self.attacks if attack.radius is not None}
        possible = ["clean", "worst_case", *sorted(asked)] if asked else ["clean"]
        for name, text in self.require.items():
            if name not in possible:
                message = f"no accuracy of {shown(name)} will be known; possible here: {', '.join(possible)}"
                yield detail(("require", name), name, message)
                continue
            try:
                parse_requirement(text)
            except ValueError as error:
                yield detail(("require", name), text, str(error))
