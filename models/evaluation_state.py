"""All that an evaluation has found out so far, so that one that was interrupted goes on from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from models.attacks.ensemble import Found, PartEvidence
from models.attacks.victim import Work
from models.evaluation_checks import Tally
from models.evaluation_examples import Example, Examples
from models.precision import Resolved


@dataclass
class State:
    """N images of one evaluation, on the CPU but for ``found``.

    ``precision``: of gradients; None until it is known. ``right``, ``predictions``: without an attack, of the first
    ``judged`` images. ``tallies``: of the attacks that have begun. ``found``: what an ensemble has found in the chunk
    that it is at; that chunk began when ``work`` stood at ``chunk_began`` steps. ``curve``: see
    :class:`models.evaluation_evidence.Evidence`, for the first ``curved`` of the images to be attacked. ``pieces``: how
    many points to go on from have been reached; ``work_until``: what was worked until the last of them, since the rest
    is done again. ``seconds``: of all attempts.
    """

    right: Tensor
    predictions: Tensor
    examples: Examples
    precision: Resolved | None = None
    judged: int = 0
    tallies: list[Tally] = field(default_factory=list)
    found: Found | None = None
    chunk_began: float = 0.0
    curve: list[Tensor] = field(default_factory=list)
    curved: int = 0
    work: Work = field(default_factory=Work)
    work_until: Work = field(default_factory=Work)
    pieces: int = 0
    seconds: float = 0.0

    @classmethod
    def new(cls, images: int, examples: Examples) -> Self:
        """Of so many images, about which nothing is known."""
        return cls(torch.zeros(images, dtype=torch.bool), torch.zeros(images, dtype=torch.int64), examples)

    def reached(self) -> None:
        """A point to go on from."""
        self.pieces += 1
        self.work_until = replace(self.work)

    def dump(self) -> dict[str, Any]:
        """What was known at the last point to go on from: tensors on the CPU, numbers, text, lists and dicts alone."""
        found = asdict(self.found.to(torch.device("cpu"))) if self.found and self.found.parts else None
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "examples": [asdict(example) for example in self.examples.kept()],
            "tallies": [asdict(tally) for tally in self.tallies],
            "found": found,
            "work": asdict(self.work_until),
        }

    def restore(self, dumped: Mapping[str, Any]) -> None:
        """Take over what :meth:`dump` answered."""
        for name in _PLAIN:
            setattr(self, name, dumped[name])
        for example in dumped["examples"]:
            self.examples.offer(Example(**example))
        self.tallies = [Tally(**{**tally, "parts": _parts(tally)}) for tally in dumped["tallies"]]
        found = dumped["found"]
        self.found = None if found is None else Found(**{**found, "parts": _parts(found)})
        self.work = Work(**dumped["work"])
        self.work_until = replace(self.work)


_PLAIN = ("precision", "right", "predictions", "judged", "chunk_began", "curve", "curved", "pieces", "seconds")


def _parts(dumped: Mapping[str, Any]) -> list[PartEvidence]:
    return [PartEvidence(**part) for part in dumped["parts"]]
