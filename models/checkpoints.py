"""Weights on disk: published models as safetensors, resume checkpoints as torch files. Both are written atomically."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from models.backbones.layout import AmbiguousLayoutError, Naming, is_normalization, naming_of
from models.networks import ImageModel, build_model, unfilled_model
from models.specs import ModelCard

CARD_KEY = "card"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

Shape = tuple[int, ...]


class CheckpointError(ValueError):
    """A file does not hold what it should: not readable, no card, or missing, unexpected and misshapen weights."""


class CardError(CheckpointError):
    """The card describes no model: an unknown backbone, or one that cannot take its images."""


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
    return _load(path, card, published=False)


def import_model(path: Path, card: ModelCard | None = None) -> ImageModel:
    """As :func:`load_model`, for a file that may name its weights as the backbone's published implementation does.

    The names are translated by :func:`models.backbones.layout.naming_of`; after that they must fit the card as
    exactly as our own, and errors speak of the file's. ``num_batches_tracked`` alone may be left out.
    """
    return _load(path, card, published=True)


def _load(path: Path, card: ModelCard | None, *, published: bool) -> ImageModel:
    try:
        with safe_open(path, framework="pt") as file:
            card = card or _card_of(path, file.metadata())
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            keys = _match(path, shapes, card, published=published)
            weights = {name: file.get_tensor(key) for name, key in keys.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name} is not a readable safetensors file: {error}") from error
    model = build_model(card)
    state = model.state_dict()
    for name, tensor in weights.items():
        fits = tensor.dtype in (_FLOATS if state[name].is_floating_point() else _INTEGERS)
        if not fits or tensor.shape != state[name].shape:  # a packed type has another shape than the file says
            raise CheckpointError(f"{keys[name]} is {tensor.dtype} in {path.name}; {state[name].dtype} is needed")
    model.load_state_dict(state | weights)
    return model.eval()


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a resume checkpoint (tensors, numbers, text, lists, dicts); the old file stays until the new is on disk."""
    # Into an open file: torch's own writer keeps to itself why the system refused.
    with _replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(state), file)


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
        first = error.errors()[0]
        where = "/".join(map(str, first["loc"])) or "the whole"
        message = f"the card in {path.name} is not valid, {error.error_count()} errors; first: {where}: {first['msg']}"
        raise CheckpointError(message) from error


def _match(path: Path, found: Mapping[str, Shape], card: ModelCard, *, published: bool) -> dict[str, str]:
    """Our name of each weight that the card's model has → the file's key; CheckpointError for what does not fit."""
    with torch.device("meta"):
        try:
            model = unfilled_model(card)
        except (ValueError, LookupError) as error:
            raise CardError(f"the card of {path.name} describes no model: {error}") from error
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    optional = {name for name in expected if published and name.endswith("num_batches_tracked")}
    try:
        naming = (
            naming_of(found, model.backbone.published, with_head=card.kind == "classifier") if published else Naming()
        )
        keys, unexpected = _translate(found, naming, expected)
    except AmbiguousLayoutError as error:
        raise CheckpointError(f"{path.name} is ambiguous: {error}") from error
    missing = sorted(naming.theirs(name) for name in expected.keys() - keys.keys() - optional)
    misshapen = [
        f"{key} is {found[key]}, not {expected[name]}"
        for name, key in sorted(keys.items())
        if found[key] != expected[name]
    ]
    _refuse_misfits(path, missing=missing, unexpected=unexpected, misshapen=misshapen)
    return keys


def _translate(found: Iterable[str], naming: Naming, expected: Container[str]) -> tuple[dict[str, str], list[str]]:
    """Our name → the file's key for each expected name, and the keys that stand for none."""
    keys: dict[str, str] = {}
    unexpected = []
    for key in sorted(found):
        if naming.drops(key):
            continue
        name = naming.ours(key)
        if name is None or name not in expected:
            unexpected.append(key)
        elif name in keys:
            raise AmbiguousLayoutError(f"{keys[name]} and {key} both stand for {name}; leave one out")
        else:
            keys[name] = key
    return keys, unexpected


def _refuse_misfits(path: Path, *, missing: list[str], unexpected: list[str], misshapen: list[str]) -> None:
    parts = [
        f"{title}: {', '.join(names[:20])}{f' and {len(names) - 20} more' if len(names) > 20 else ''}"
        for title, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if names
    ]
    if any(is_normalization(key) for key in unexpected):
        parts.append("the card's mean and std normalize the images: give them there and leave them out of the file")
    if parts:
        raise CheckpointError(f"{path.name} does not fit its card; {'; '.join(parts)}")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place once it is wholly on disk, else it is removed; OSError."""
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
    except (RuntimeError, SafetensorError) as error:
        number = _errno_behind(error)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), path.name) from error
    finally:
        temporary.unlink(missing_ok=True)


def _errno_behind(error: BaseException) -> int | None:
    """Why the system refused, where a library's error hides it: torch's in its context, safetensors' in its text."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found:
        return int(found.group(1))
    context = error.__context__
    if isinstance(context, OSError):
        return context.errno
    return None if context is None else _errno_behind(context)
