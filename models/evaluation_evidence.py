"""What an evaluation saw, image by image: raw enough to be merged exactly from shards, and to be kept on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.attacks.ensemble import PartEvidence
from models.evaluation_examples import Example

_META_KEY = "evidence"


class EvidenceError(ValueError):
    """Evidence that is damaged, or parts that do not make a whole."""


@dataclass(frozen=True)
class AttackEvidence:
    """One attack on N images, on the CPU.

    ``fooled``: attacked and then wrong, at any norm. ``broken``: fooled inside the attack's ball, or fooled where it
    has none. ``l2``, ``linf``: float64 (N,) norms of the perturbation, infinite where the attack failed or the image
    was not attacked. ``seconds``: of the attack alone.
    """

    fooled: Tensor
    broken: Tensor
    l2: Tensor
    linf: Tensor
    seconds: float
    parts: tuple[PartEvidence, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """N images of one evaluation. ``ids``: their positions among all images of the evaluation, ascending int64 (N,).

    ``right``, ``predictions``: without an attack. ``attacks``: in the order of the spec. ``curve``: for each radius,
    broken at it or at a smaller one, boolean (N,). ``health``: counts of :mod:`models.evaluation_health`, which add up.
    ``forwards``, ``gradients``: images that went through the model, for a verdict and for a gradient.
    """

    ids: Tensor
    labels: Tensor
    predictions: Tensor
    right: Tensor
    attacks: tuple[AttackEvidence, ...]
    curve: tuple[Tensor, ...]
    examples: tuple[Example, ...]
    health: Mapping[str, float]
    forwards: int
    gradients: int
    seconds: float

    def __len__(self) -> int:
        return len(self.ids)


def merge(parts: Sequence[Evidence]) -> Evidence:
    """The evidence of all images from that of disjoint parts; EvidenceError if an image is missing or there twice."""
    if not parts or any(len(part.attacks) != len(parts[0].attacks) for part in parts):
        raise EvidenceError("these are not parts of one evaluation")
    ids = torch.cat([part.ids for part in parts])
    order = ids.argsort()
    if not torch.equal(ids[order], torch.arange(len(ids))):
        raise EvidenceError(f"the parts do not cover the images 0 to {len(ids) - 1} once each")

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors))[order]

    def attack(index: int) -> AttackEvidence:
        same = [part.attacks[index] for part in parts]
        pieces = next((one.parts for one in same if one.parts), ())

        def piece(place: int, name: str) -> PartEvidence:
            # Where the model got no image right nothing was attacked, and no part is known.
            nothing = [PartEvidence(name, torch.zeros_like(one.broken), 0.0) for one in same]
            own = [one.parts[place] if one.parts else none for one, none in zip(same, nothing, strict=True)]
            return PartEvidence(name, joined([one.broken for one in own]), sum(one.seconds for one in own))

        return AttackEvidence(
            **{name: joined([getattr(one, name) for one in same]) for name in ("fooled", "broken", "l2", "linf")},
            seconds=sum(one.seconds for one in same),
            parts=tuple(piece(place, part.name) for place, part in enumerate(pieces)),
        )

    return Evidence(
        ids=ids[order],
        **{name: joined([getattr(part, name) for part in parts]) for name in ("labels", "predictions", "right")},
        attacks=tuple(attack(index) for index in range(len(parts[0].attacks))),
        curve=tuple(joined([part.curve[place] for part in parts]) for place in range(len(parts[0].curve))),
        examples=tuple(example for part in parts for example in part.examples),
        health=_added([part.health for part in parts]),
        forwards=sum(part.forwards for part in parts),
        gradients=sum(part.gradients for part in parts),
        seconds=sum(part.seconds for part in parts),
    )


def _added(counts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = sorted({name for count in counts for name in count})
    return {name: sum(count.get(name, 0) for count in counts) for name in names}


def save_evidence(path: Path, evidence: Evidence) -> None:
    """Write one file, safetensors with the numbers as JSON beside the tensors."""
    tensors: dict[str, Tensor] = {}

    def flat(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            tensors[name] = value.contiguous()
            return {"tensor": name}
        if isinstance(value, dict):
            return {"dict": {key: flat(item, f"{name}.{key}") for key, item in value.items()}}
        if isinstance(value, tuple | list):
            return [flat(item, f"{name}.{place}") for place, item in enumerate(value)]
        return value

    shallow = {field.name: getattr(evidence, field.name) for field in fields(evidence)}
    shallow["attacks"] = [asdict(attack) for attack in evidence.attacks]
    shallow["examples"] = [asdict(example) for example in evidence.examples]
    meta = {name: flat(value, name) for name, value in shallow.items()}
    save_file(tensors, path, metadata={_META_KEY: json.dumps(meta)})


def load_evidence(path: Path) -> Evidence:
    """Read what :func:`save_evidence` wrote; EvidenceError for anything else."""
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})[_META_KEY])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return _rebuilt(meta, tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise EvidenceError(f"{path.name} holds no evidence of an evaluation: {error}") from error


def _rebuilt(meta: dict[str, Any], tensors: Mapping[str, Tensor]) -> Evidence:
    def deep(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(deep(item) for item in value)
        if isinstance(value, dict) and "tensor" in value:
            return tensors[value["tensor"]]
        if isinstance(value, dict):
            return {key: deep(item) for key, item in value["dict"].items()}
        return value

    whole = {name: deep(value) for name, value in meta.items()}
    whole["examples"] = tuple(Example(**example) for example in whole["examples"])
    whole["attacks"] = tuple(
        AttackEvidence(**{**attack, "parts": tuple(PartEvidence(**part) for part in attack["parts"])})
        for attack in whole["attacks"]
    )
    return Evidence(**whole)
