"""Fields that name a registered model, and where in a spec they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, Field


class ModelReference:
    """Marks a field whose text is ``name``, ``name@version`` or ``name@alias``: the service resolves it."""


Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
ModelRef = Annotated[
    str,
    Field(min_length=1, max_length=220, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(@[A-Za-z0-9][A-Za-z0-9._-]*)?$"),
    ModelReference(),
]


def model_references(spec: BaseModel) -> dict[str, str]:
    """Every field of the spec, and of specs and lists inside it, that names a registered model: path → reference.

    A path is a JSON pointer without its first slash (``model``, ``attacks/1/source``). Fields left null are left out.
    """
    return dict(_references(spec, ()))


def _references(value: Any, path: tuple[str, ...], *, marked: bool = False) -> Iterator[tuple[str, str]]:
    if isinstance(value, BaseModel):
        for field, info in type(value).model_fields.items():
            marks = _marked(info.annotation, info.metadata)
            yield from _references(getattr(value, field), (*path, field), marked=marks)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _references(item, (*path, str(index)), marked=marked)
    elif marked and isinstance(value, str):
        yield "/".join(path), value


def _marked(annotation: Any, metadata: list[Any]) -> bool:
    inner = [*metadata, *getattr(annotation, "__metadata__", ())]
    if any(isinstance(item, ModelReference) for item in inner):
        return True
    return any(_marked(argument, []) for argument in getattr(annotation, "__args__", ()))
