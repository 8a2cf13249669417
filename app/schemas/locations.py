"""Where a validation error lies in what the client sent, as a JSON Pointer, and what it may have meant.

pydantic's locations run through the *types*: a union adds the tag or class of the member that it tried. The client
knows its own JSON alone, so such steps are left out: every step is checked against the value that was sent.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

Location = Sequence[int | str]


def pointer(location: Location, value: Any) -> str:
    """JSON Pointer (RFC 6901) of ``location`` in ``value``, the parsed body; steps that are not in it are dropped."""
    steps = []
    for index, step in enumerate(location):
        last = index == len(location) - 1
        if isinstance(value, dict):
            if step not in value and not last:
                continue
            value = value.get(step)
        elif isinstance(value, list):
            if not isinstance(step, int) or not 0 <= step < len(value):
                continue
            value = value[step]
        else:
            continue
        steps.append(str(step).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{step}" for step in steps)


def suggestion(location: Location, value: Any, models: Sequence[type[BaseModel]]) -> str | None:
    """The field that the unknown one at ``location`` comes nearest to, of the model that it lies in."""
    candidates = list(_narrowed(models, value))
    for step in location[:-1]:
        if isinstance(value, dict) and step in value:
            value = value[step]
            annotations = [
                model.model_fields[str(step)].annotation for model in candidates if str(step) in model.model_fields
            ]
            candidates = [found for annotation in annotations for found in _models(annotation)]
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            continue
        candidates = list(_narrowed(candidates, value))
    names = {name for model in candidates for name in model.model_fields}
    near = difflib.get_close_matches(str(location[-1])[:100], sorted(names), n=1)
    return near[0] if near else None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The model classes in an annotation, with those that extend them: a registry's fields name the base alone."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for extended in annotation.__subclasses__():
            yield from _models(extended)
    for argument in get_args(annotation):
        yield from _models(argument)


def _narrowed(models: Sequence[type[BaseModel]], value: Any) -> Iterator[type[BaseModel]]:
    """The models whose fixed fields (``name: Literal["pgd"]``) do not contradict ``value``; all if it is no object."""
    for model in models:
        fixed = {
            name: get_args(field.annotation)
            for name, field in model.model_fields.items()
            if get_origin(field.annotation) is Literal
        }
        if not isinstance(value, dict) or all(value[name] in fixed[name] for name in fixed if name in value):
            yield model
