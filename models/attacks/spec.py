"""The shape of an attack's parameters and of its registry entry. Free of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, GetJsonSchemaHandler, ValidationInfo, field_validator
from pydantic_core import CoreSchema

from models.fields import Pixels, inside_pixel_range, pixel_schema
from models.registry import Registry
from models.specs import Spec

if TYPE_CHECKING:
    from torch import Tensor

Norm = Literal["linf", "l2"]
Access = Literal["white-box", "black-box", "transfer", "control"]

FORWARD_COST = 0.4
"""What a pass without a gradient costs, in passes with one."""

_USUAL_EPS: dict[Norm, float] = {"linf": 8 / 255, "l2": 0.5}


class AttackParams(Spec):
    """Base of every attack's parameters; ``name`` is narrowed to the attack's own name by each."""

    name: str = Field(description="the attack; see GET /attacks")

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """A field that an attack has fixed (``name``, a ``norm``) says so."""
        shape = handler(schema)
        for field in handler.resolve_ref_schema(shape)["properties"].values():
            if "const" in field:
                field.setdefault("description", f"always {field['const']}")
        return shape

    @property
    def radius(self) -> tuple[Norm, float] | None:
        """The ball that robust accuracy is about, or None where no budget was given."""
        return None

    @property
    def cost(self) -> float:
        """Passes with a gradient that an image takes which never breaks; for estimates of time alone."""
        return 1.0


class BoundedParams(AttackParams):
    """Parameters of an attack inside an eps-ball."""

    norm: Norm = Field("linf", description="norm of the perturbation over all pixels and channels of one image")
    eps: Pixels = Field(
        None,
        validate_default=True,
        ge=0,
        le=1_000,
        json_schema_extra=pixel_schema(null=True),
        description="radius of the ball, pixels in [0, 1]; null: 8/255 for linf, 0.5 for l2; at most 1 for linf",
    )

    @field_validator("eps", mode="before")
    @classmethod
    def _usual_eps(cls, eps: Any, info: ValidationInfo) -> Any:
        return _USUAL_EPS[info.data.get("norm", "linf")] if eps is None else eps

    @field_validator("eps")
    @classmethod
    def _inside_the_pixel_range(cls, eps: float, info: ValidationInfo) -> float:
        return inside_pixel_range(eps) if info.data.get("norm") == "linf" else eps

    @property
    def radius(self) -> tuple[Norm, float]:
        return self.norm, self.eps

    def at(self, eps: float) -> Self:
        """The same attack in a ball of another radius."""
        return type(self).model_validate({**self.model_dump(), "eps": eps})


class IterativeParams(BoundedParams):
    """Parameters of a projected gradient attack."""

    steps: int = Field(20, ge=1, le=10_000, description="gradient steps a restart")
    step_size: Pixels = Field(
        None,
        validate_default=True,
        gt=0,
        le=1_000,
        json_schema_extra=pixel_schema(positive=True, null=True),
        description="length of one step in the ball's norm, pixels in [0, 1]; null: eps / 4",
    )
    random_start: bool = Field(True, description="start at a random point of the ball instead of the clean image")
    restarts: int = Field(1, ge=1, le=1_000, description="runs from different random starts; any of them may succeed")

    @property
    def cost(self) -> float:
        return float(self.steps * self.restarts)

    @field_validator("step_size", mode="before")
    @classmethod
    def _usual_step_size(cls, step_size: Any, info: ValidationInfo) -> Any:
        # With eps 0 (or a refused eps) the step does not matter, but it must meet its own bound.
        return info.data.get("eps", 0.0) / 4 or 2 / 255 if step_size is None else step_size

    def at(self, eps: float) -> Self:
        """The same attack in a ball of another radius; the step keeps its share of the radius."""
        if eps == self.eps:
            return self
        step_size = self.step_size * eps / self.eps if eps > 0 and self.eps > 0 else None
        return type(self).model_validate({**self.model_dump(), "eps": eps, "step_size": step_size})

    @field_validator("restarts")
    @classmethod
    def _restarts_differ(cls, restarts: int, info: ValidationInfo) -> int:
        if restarts > 1 and not info.data.get("random_start", True):
            raise ValueError("without a random start every restart is the same run; give 1, or random_start: true")
        return restarts


class SearchParams(IterativeParams):
    """Parameters of a projected gradient attack in an evaluation."""

    verdict: Literal["any", "last"] = Field(
        "any",
        description="any: an iterate that fools the model counts, and its image leaves; last: only a restart's last "
        "iterate is judged, as in older tables (a weaker attack)",
    )


@dataclass(frozen=True)
class Attack:
    """A registered attack.

    ``run(victim, images, labels, params, noise=...)`` returns adversarial images of the shape of ``images``:
    float32 (N, C, H, W) in [0, 1]; ``victim`` is a :class:`models.attacks.victim.Victim` with K ≥ 2 classes; ``labels``
    is int64 (N,); ``noise`` is a :class:`models.attacks.noise.Noise` for those N images. N may be thousands: the victim
    splits what it is given into batches, so an attack keeps the state of all N and passes on those still in the game.
    An attack keeps the iterate that fooled the model ("any" verdict) and drops broken images; what it calls broken,
    it has seen wrong in float32 (``victim.fooled``, ``victim.right``).
    For an image that it cannot break it returns its last iterate (bounded) or the clean image (minimum norm).

    ``minimum_norm``: the attack seeks the smallest perturbation that fools the model; its images may lie outside the
    ball of ``params.radius`` and count against robust accuracy only inside it.
    ``access``: what the attack knows. Only white-box and black-box attacks of the model itself make a worst case;
    images crafted on another model ("transfer") and blind noise ("control") are reported on their own.
    ``warm_start``: ``run`` takes ``start``, points (N, C, H, W) to begin at instead of a random one; they are moved
    into the ball first.
    ``stronger_than``: attacks whose robust accuracy at the same ball this one's must not exceed (a sanity check).
    ``parts(params, classes)``: of an attack that runs others one after the other on what is left, the parameters of
    each, for a model of that many classes; see :func:`models.attacks.ensemble.run_parts`.
    """

    name: str
    title: str
    params: type[AttackParams]
    run: Callable[..., Tensor]
    source: str
    formula: str
    access: Access = "white-box"
    minimum_norm: bool = False
    warm_start: bool = False
    stronger_than: tuple[str, ...] = ()
    parts: Callable[[Any, int], tuple[AttackParams, ...]] | None = None


ATTACKS: Registry[Attack] = Registry("attack", package="models.attacks")
