"""Weights on disk: published models as safetensors, resume checkpoints as torch files. Both are written atomically."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from models.networks import ImageModel, build_model
from models.specs import ModelCard

CARD_KEY = "card"


class CheckpointError(ValueError):
    """A file does not hold what it should: not readable, no card, or missing, unexpected and misshapen weights."""


def save_model(path: Path, model: ImageModel) -> None:
    """Write weights as safetensors with the card as JSON under "card"; equal models give equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    # One metadata key alone: safetensors writes several in no fixed order, and the file's hash is its name.
    with _replacing(path) as temporary:
        save_file(tensors, temporary, metadata={CARD_KEY: model.card.model_dump_json()})


def load_model(path: Path, card: ModelCard | None = None) -> ImageModel:
    """The model in ``path``, on the CPU in eval mode; ``card`` stands in for the file's own.

    Names and shapes are checked against the card before a weight is read or memory is taken for it.
    Raises :class:`CheckpointError`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            card = card or _card_of(path, file.metadata())
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            _check_shapes(path, shapes, card)
            weights = {key: file.get_tensor(key) for key in shapes}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name} is not a readable safetensors file: {error}") from error
    model = build_model(card)
    for name, tensor in model.state_dict().items():
        if weights[name].is_floating_point() != tensor.is_floating_point():
            raise CheckpointError(f"{name} is {weights[name].dtype} in {path.name}; {tensor.dtype} is needed")
    model.load_state_dict(weights)
    return model.eval()


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a resume checkpoint (tensors, numbers, text, lists, dicts); the old file stays until the new is on disk."""
    with _replacing(path) as temporary:
        torch.save(dict(state), temporary)


def load_state(path: Path) -> dict[str, Any]:
    """Read what :func:`save_state` wrote, on the CPU; raises :class:`CheckpointError` for anything else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path.name} is not a readable resume checkpoint: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path.name} holds a {type(state).__name__}, not a resume checkpoint")
    return state


def _card_of(path: Path, metadata: dict[str, str] | None) -> ModelCard:
    text = (metadata or {}).get(CARD_KEY)
    if text is None:
        raise CheckpointError(f"{path.name} carries no card in its metadata; give the architecture beside it")
    try:
        return ModelCard.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointError(f"the card in {path.name} is not valid: {error}") from error


def _check_shapes(path: Path, found: Mapping[str, tuple[int, ...]], card: ModelCard) -> None:
    with torch.device("meta"):
        try:
            expected = {name: tuple(value.shape) for name, value in build_model(card).state_dict().items()}
        except (ValueError, LookupError) as error:
            raise CheckpointError(f"the card of {path.name} describes no model: {error}") from error
    missing = sorted(expected.keys() - found.keys())
    unexpected = sorted(found.keys() - expected.keys())
    misshapen = [
        f"{name} is {found[name]}, not {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    parts = [
        f"{title}: {', '.join(names[:20])}{f' and {len(names) - 20} more' if len(names) > 20 else ''}"
        for title, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if names
    ]
    if parts:
        raise CheckpointError(f"{path.name} does not fit its card; {'; '.join(parts)}")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place once it is wholly on disk, or is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)
