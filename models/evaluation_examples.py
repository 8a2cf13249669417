"""The few attacked images that an evaluation keeps to be looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.attacks.noise import derive_seed

NOT_BROKEN = 2  # the rank of an image that the attack left right


@dataclass(frozen=True)
class Example:
    """A clean image and its adversarial version, float32 (C, H, W) in [0, 1], with both predictions (class indices).

    ``survives_8bit``: still wrong after rounding to steps of 1/255, as an 8-bit picture file does; None if not broken.
    """

    rank: int
    index: int
    label: int
    clean_prediction: int
    adversarial_prediction: int
    attack: str
    linf: float
    l2: float
    clean: Tensor
    adversarial: Tensor
    survives_8bit: bool | None = None

    @property
    def broken(self) -> bool:
        return self.rank < NOT_BROKEN

    def prediction(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "label": self.label,
            "clean_prediction": self.clean_prediction,
            "adversarial_prediction": self.adversarial_prediction,
            "attack": self.attack,
            "linf": self.linf,
            "l2": self.l2,
            "survives_8bit": self.survives_8bit,
        }


class Examples:
    """A random sample of at most ``limit`` of the images that were attacked, whatever became of them.

    Not a choice of the broken ones: a robust model shown by its failures alone looks like any other. Each image is
    shown with the attack of lowest rank: 0 broken by a bounded attack, 1 by a minimum-norm attack, NOT_BROKEN.
    The sample depends on ``seed`` and the number of images alone, so that two models are shown on the same ones.
    """

    def __init__(self, limit: int, *, images: int, seed: int) -> None:
        self._limit = limit
        generator = torch.Generator().manual_seed(derive_seed(seed, "examples"))
        self._place = torch.randperm(images, generator=generator).tolist()
        self._kept: dict[int, Example] = {}

    def wants(self, rank: int, index: int) -> bool:
        """Whether an example of this rank for image ``index`` would be kept."""
        if index in self._kept:
            return rank < self._kept[index].rank
        if len(self._kept) < self._limit:
            return True
        return self._limit > 0 and self._place[index] < self._place[self._last()]

    def offer(self, example: Example) -> None:
        """Keep ``example`` if it is wanted, and drop the last of the sample if there are too many."""
        if not self.wants(example.rank, example.index):
            return
        if example.index not in self._kept and len(self._kept) == self._limit:
            del self._kept[self._last()]
        self._kept[example.index] = example

    def kept(self) -> tuple[Example, ...]:
        """The sample in its order."""
        return tuple(self._ordered())

    def tensors(self, shape: tuple[int, ...]) -> dict[str, Tensor]:
        """``clean`` and ``adversarial``, float32 (M, C, H, W), in the order of :meth:`predictions`."""
        chosen = self._ordered()
        if not chosen:
            return {"clean": torch.empty(0, *shape), "adversarial": torch.empty(0, *shape)}
        return {
            "clean": torch.stack([example.clean for example in chosen]),
            "adversarial": torch.stack([example.adversarial for example in chosen]),
        }

    def predictions(self) -> list[dict[str, Any]]:
        return [example.prediction() for example in self._ordered()]

    def surviving_8bit(self) -> dict[str, int]:
        """How many of the broken ones in the sample rounding to 8 bits leaves broken."""
        broken = [example for example in self._ordered() if example.broken]
        return {"broken": len(broken), "surviving": sum(bool(example.survives_8bit) for example in broken)}

    def _ordered(self) -> list[Example]:
        return sorted(self._kept.values(), key=lambda example: self._place[example.index])

    def _last(self) -> int:
        return max(self._kept, key=lambda index: self._place[index])
