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

NEAR = 0.8
"""difflib's ratio: `step` is near `steps` (0.89), while `steps` is not near `eps` (0.75)."""


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


def unknown_field(location: Location, value: Any, models: Sequence[type[BaseModel]]) -> str:
    """What to say of the unknown field at ``location``: the nearest one of the object that it lies in, or all of them.

    ``models``: what ``value`` may be.
    """
    candidates = _narrowed(models, value)
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
        candidates = _narrowed(candidates, value)
    names = sorted({name for model in candidates for name in model.model_fields} - {str(location[-1])})
    if near := difflib.get_close_matches(str(location[-1])[:100], names, n=1, cutoff=NEAR):
        return f"unknown field; did you mean {near[0]!r}?"
    return f"unknown field; known: {', '.join(names)}" if names else "unknown field"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The model classes in an annotation, with those that extend them: a registry's fields name the base alone."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for extended in annotation.__subclasses__():
            yield from _models(extended)
    for argument in get_args(annotation):
        yield from _models(argument)


def _narrowed(models: Sequence[type[BaseModel]], value: Any) -> list[type[BaseModel]]:
    """The models that ``value`` may be: their fixed fields (``name: Literal["pgd"]``) hold what it gives.

    A base, which has as any text what another model fixes, is none of them, unless no other is left.
    """
    if not isinstance(value, dict):
        return list(models)
    fixed = [
        {
            name: get_args(field.annotation)
            for name, field in model.model_fields.items()
            if name in value and get_origin(field.annotation) is Literal
        }
        for model in models
    ]
    fitting = [
        (model, names)
        for model, names in zip(models, fixed, strict=True)
        if all(value[name] in options for name, options in names.items())
    ]
    told = {name for _, names in fitting for name in names}
    return [model for model, names in fitting if not (told & model.model_fields.keys()) - names.keys()]
