"""What an evaluation demands of models and attacks before it believes a number, and the tally that it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from models.attacks.ensemble import PartEvidence
from models.attacks.spec import Attack, AttackParams
from models.attacks.threat import threat_model, within
from models.evaluation_evidence import AttackEvidence


class AttackError(RuntimeError):
    """The model or an attack broke its contract (NaN logits, an image outside the ball): the numbers would be wrong."""


@dataclass(frozen=True)
class Strike:
    """What became of the M images of one chunk, on the CPU; the norms are those of each perturbation, float64 (M,)."""

    predictions: Tensor
    fooled: Tensor
    broken: Tensor
    l2: Tensor
    linf: Tensor


@dataclass
class Tally:
    """The evidence of one attack, filled chunk by chunk; ``attacked`` counts the images of these."""

    fooled: Tensor
    broken: Tensor
    l2: Tensor
    linf: Tensor
    attacked: int = 0
    seconds: float = 0.0
    parts: list[PartEvidence] = field(default_factory=list)

    @classmethod
    def of(cls, images: int) -> Self:
        """Of so many images, none of which was attacked yet."""
        no, never = torch.zeros(images, dtype=torch.bool), torch.full((images,), torch.inf, dtype=torch.float64)
        return cls(no, no.clone(), never, never.clone())

    def add(self, index: Tensor, strike: Strike, *, seconds: float, parts: Sequence[PartEvidence]) -> None:
        """``strike`` is what became of the images at the positions ``index`` (M,)."""
        self.fooled[index], self.broken[index] = strike.fooled, strike.broken
        self.l2[index] = torch.where(strike.fooled, strike.l2, torch.inf)
        self.linf[index] = torch.where(strike.fooled, strike.linf, torch.inf)
        self.attacked += len(index)
        self.seconds += seconds
        sofar = self.parts or [PartEvidence(part.name, torch.zeros_like(self.broken), 0.0) for part in parts]
        for whole, part in zip(sofar, parts, strict=True):
            whole.broken[index] = part.broken
        self.parts = [
            PartEvidence(whole.name, whole.broken, whole.seconds + part.seconds)
            for whole, part in zip(sofar, parts, strict=True)
        ]

    def evidence(self) -> AttackEvidence:
        return AttackEvidence(self.fooled, self.broken, self.l2, self.linf, self.seconds, tuple(self.parts))


def inside(params: AttackParams, sizes: dict[str, Tensor]) -> Tensor:
    """Whether each perturbation fits the attack's ball up to rounding, boolean (N,); always where it has none."""
    if params.radius is None:
        return torch.ones_like(sizes["l2"], dtype=torch.bool)
    norm, eps = params.radius
    return within(sizes[norm], eps)


def checked_sizes(attack: Attack, params: AttackParams, *, pixels: Tensor, points: Tensor) -> dict[str, Tensor]:
    """Each perturbation's norms in float64 on the CPU; raises AttackError if an image breaks the attack's promises."""
    if points.shape != pixels.shape or points.dtype != torch.float32:
        raise AttackError(f"{attack.name} returned {points.dtype} {tuple(points.shape)} for {tuple(pixels.shape)}")
    if points.isnan().any():
        raise AttackError(f"{attack.name} came to pixels that are no numbers: the model's input gradient is not finite")
    if not bool(((points >= 0) & (points <= 1)).all()):
        raise AttackError(f"{attack.name} returned pixels outside [0, 1]")
    # float64 on the CPU: some accelerators have none.
    delta = points.cpu().double() - pixels.cpu().double()
    sizes = {"l2": threat_model("l2", 0).size(delta), "linf": threat_model("linf", 0).size(delta)}
    if not attack.minimum_norm and not bool(inside(params, sizes).all()):
        assert params.radius is not None
        norm, eps = params.radius
        raise AttackError(f"{attack.name} left its ball: {norm} {sizes[norm].max().item():g} is more than {eps:g}")
    return sizes
