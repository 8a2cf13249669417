"""The shape of an attack's parameters and of its registry entry. Free of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator

from models.registry import Registry
from models.specs import Pixels, Spec

if TYPE_CHECKING:
    from torch import Tensor

Norm = Literal["linf", "l2"]

_USUAL_EPS: dict[Norm, float] = {"linf": 8 / 255, "l2": 0.5}


def pixel_schema(*, positive: bool = False, null: bool = False) -> Callable[[dict[str, Any]], None]:
    """JSON schema of a ``Pixels`` field up to 1,000, since pydantic drops the bounds of such a field from its own."""

    def rewrite(schema: dict[str, Any]) -> None:
        for key in ("ge", "gt", "le"):
            schema.pop(key, None)
        number: dict[str, Any] = {"type": "number", "exclusiveMinimum" if positive else "minimum": 0, "maximum": 1_000}
        text: dict[str, Any] = {"type": "string", "maxLength": 40, "examples": ["8/255"]}
        schema["anyOf"] = [number, text, *([{"type": "null"}] if null else [])]

    return rewrite


class AttackParams(Spec):
    """Base of every attack's parameters; ``name`` is narrowed to the attack's own name by each."""

    name: str

    @property
    def radius(self) -> tuple[Norm, float] | None:
        """The ball that robust accuracy is about, or None where no budget was given."""
        return None


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
        if info.data.get("norm") == "linf" and eps > 1:
            raise ValueError(f'pixels lie in [0, 1], so an linf radius is at most 1; 8-bit steps are "{eps:g}/255"')
        return eps

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


@dataclass(frozen=True)
class Attack:
    """A registered attack.

    ``run(model, images, labels, params, noise=...)`` returns adversarial images of the shape of ``images``:
    float32 (N, C, H, W) in [0, 1]; ``model`` maps such images to logits (N, K), K ≥ 2; ``labels`` is int64 (N,);
    ``noise`` is a :class:`models.attacks.noise.Noise` for those N images.
    An attack keeps the iterate that fooled the model ("any" verdict) and drops broken images from its batch.
    For an image that it cannot break it returns its last iterate (bounded) or the clean image (minimum norm).

    ``minimum_norm``: the attack seeks the smallest perturbation that fools the model; its images may lie outside the
    ball of ``params.radius`` and count against robust accuracy only inside it.
    ``stronger_than``: attacks whose robust accuracy at the same ball this one's must not exceed (a sanity check).
    """

    name: str
    title: str
    params: type[AttackParams]
    run: Callable[..., Tensor]
    source: str
    formula: str
    minimum_norm: bool = False
    stronger_than: tuple[str, ...] = ()


ATTACKS: Registry[Attack] = Registry("attack", package="models.attacks")
