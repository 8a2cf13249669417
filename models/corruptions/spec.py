"""The shape of a corruption's registry entry. Free of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from models.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST_SIDE = 8
"""Least height and width of an image, in pixels: below it there is nothing to blur or to warp."""

CIFAR_C = (
    "Hendrycks, Dietterich: Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, "
    "ICLR 2019, arXiv:1903.12261; strengths of CIFAR-10-C (make_cifar_c.py)"
)

Group = Literal["noise", "blur", "weather", "digital"]


@dataclass(frozen=True)
class Corruption:
    """A registered corruption.

    ``run(images, draws, **strength)`` returns corrupted images of the shape of ``images``, float32 (N, C, H, W) in
    [0, 1] on the CPU, and may leave that range; ``draws`` is a :class:`models.corruptions.draws.Draws` of those N
    images. An image's result depends on itself and on its draws alone.

    ``strengths``: the parameters at severities 1 to 5. Lengths are in pixels of a 32-pixel image, see
    :func:`models.corruptions.operators.length_scale`. ``note``: how it differs from the published files, if it does.
    """

    name: str
    title: str
    group: Group
    run: Callable[..., Tensor]
    strengths: tuple[dict[str, float], ...]
    formula: str
    note: str | None = None
    source: str = CIFAR_C

    def __post_init__(self) -> None:
        if len(self.strengths) != len(SEVERITIES):
            raise ValueError(f"{self.name}: give {len(SEVERITIES)} strengths, not {len(self.strengths)}")


def strengths(**columns: tuple[float, ...]) -> tuple[dict[str, float], ...]:
    """The parameters at each severity from the values of each parameter, severity 1 first."""
    return tuple(dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


CORRUPTIONS: Registry[Corruption] = Registry("corruption", package="models.corruptions")
