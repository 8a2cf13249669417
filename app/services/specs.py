"""Whether a spec can run. A spec that never can is refused here, with a pointer to each field, and never by a worker.

Fields are checked by their pydantic classes; here, what only the database and the registries know: that models and data
exist, that a classifier is one, that shapes and classes fit. The result has every default written out and every model
pinned to its version, so that posting it again repeats the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError
from sqlalchemy.orm import Session

from app.errors import FieldError, InvalidSpecError, NotFoundError
from app.records import ModelVersion
from app.services import datasets, models, names
from app.services.datasets import DatasetInfo
from app.services.fitting import misfits
from app.services.plan import Step, steps
from app.services.presets import PREFIX_LENGTH, ProtocolParams
from app.services.tokens import OPERATOR, Principal
from models.corruption_spec import CorruptionParams
from models.evaluation_spec import EvaluationParams
from models.methods.spec import METHODS
from models.probe_spec import ProbeParams
from models.references import Name, model_references
from models.specs import EvaluationData, Spec, TrainingData, TrainingParams

LabelKey = Annotated[str, Field(min_length=1, max_length=100)]
LabelValue = Annotated[str, Field(max_length=500)]


class _Extras(Spec):
    """What a body carries beside the spec."""

    register_as: Name | None = None
    labels: dict[LabelKey, LabelValue] = Field(default={}, max_length=50)


def validate(
    session: Session, *, kind: str, body: Mapping[str, Any], asking: Principal = OPERATOR
) -> tuple[dict[str, Any], str | None, dict[str, str]]:
    """Writing. The resolved spec, the name to register the result under (None: it makes no model), and the labels.

    A new name is reserved for who is asking.

    Raises InvalidSpecError with a pointer for each wrong field.
    """
    extra_names = ["labels"] if kind in ("evaluate", "corruptions", "protocol") else ["labels", "register_as"]
    given = {name: body[name] for name in extra_names if name in body}
    params_class = _params_class(kind, body)
    extras, params = _parse(
        (_Extras, given), (params_class, {k: v for k, v in body.items() if k not in given}), body=body
    )
    assert isinstance(extras, _Extras)
    if isinstance(params, ProtocolParams):
        return _protocol(session, params, body, asking=asking), None, dict(extras.labels)
    spec = params.model_dump(mode="json")
    errors: list[FieldError] = []
    versions = _resolve(session, params, spec=spec, errors=errors)
    data = _dataset(session, params, asking=asking, errors=errors)
    if data is not None:
        errors += misfits(params, data, versions)
    if errors:
        raise _refusal(errors)
    default = _default_name(params, versions)
    name = default and names.take(session, extras.register_as, default=default, asking=asking, field="/register_as")
    return spec, name, dict(extras.labels)


def _params_class(kind: str, body: Mapping[str, Any]) -> type[BaseModel]:
    fixed: dict[str, type[BaseModel]] = {
        "probe": ProbeParams,
        "evaluate": EvaluationParams,
        "corruptions": CorruptionParams,
        "protocol": ProtocolParams,
    }
    if kind in fixed:
        return fixed[kind]
    method = body.get("method")
    if not isinstance(method, str) or method not in METHODS or METHODS[method].kind != kind:
        raise _refusal([{"pointer": "/method", "detail": method_refusal(method, kind=kind)}])
    return METHODS[method].params


def method_refusal(given: Any, *, kind: str) -> str:
    """Why ``given`` is no method of this kind, and what is."""
    if given is None:
        shown = "no method is given;"
    elif isinstance(given, str) and given in METHODS:
        shown = f"{given!r} is a method of POST /jobs/{METHODS[given].kind}; here"
    else:
        shown = f"unknown method {str(given)[:100]!r};"
    known = ", ".join(entry.name for entry in METHODS.entries() if entry.kind == kind)
    return f"{shown} give one of: {known}"


def _parse(*parts: tuple[type[BaseModel], Mapping[str, Any]], body: Mapping[str, Any]) -> list[BaseModel]:
    """Each class filled from its values; the errors of all together."""
    parsed, errors = [], []
    for model, values in parts:
        try:
            parsed.append(model.model_validate(values))
        except ValidationError as error:
            errors += [
                FieldError(pointer=_pointer(item["loc"], body), detail=item["msg"].removeprefix("Value error, "))
                for item in error.errors(include_url=False, include_context=False, include_input=False)
            ]
    if errors:
        raise _refusal(errors)
    return parsed


def _pointer(location: tuple[int | str, ...], value: Any) -> str:
    """JSON pointer of a pydantic location; steps that are not in the client's JSON (tags of unions) are left out."""
    found = []
    for index, step in enumerate(location):
        if isinstance(value, Mapping) and (step in value or index == len(location) - 1):
            value = value.get(step)
        elif isinstance(value, list | tuple) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            continue
        found.append("/" + str(step).replace("~", "~0").replace("/", "~1"))
    return "".join(found)


def _refusal(errors: list[FieldError]) -> InvalidSpecError:
    first = errors[0]
    more = "" if len(errors) == 1 else f" (and {len(errors) - 1} more)"
    return InvalidSpecError(f"{first['pointer'] or 'the body'}: {first['detail']}{more}", errors=errors)


def _resolve(
    session: Session, params: BaseModel, *, spec: dict[str, Any], errors: list[FieldError]
) -> dict[str, ModelVersion]:
    """The versions that the spec's references mean, by path; ``spec`` gets them pinned as name@version."""
    versions = {}
    for field, reference in model_references(params).items():
        try:
            versions[field] = models.resolve(session, reference)
        except NotFoundError as error:
            errors.append({"pointer": f"/{field}", "detail": error.detail})
            continue
        _pin(spec, field, versions[field].reference)
    return versions


def _pin(spec: Any, path: str, reference: str) -> None:
    """Write ``reference`` where ``path``, a JSON pointer without its first slash, leads."""
    step, _, rest = path.partition("/")
    key = int(step) if isinstance(spec, list) else step
    if rest:
        _pin(spec[key], rest, reference)
    else:
        spec[key] = reference


def _dataset(session: Session, params: BaseModel, *, asking: Principal, errors: list[FieldError]) -> DatasetInfo | None:
    chosen: TrainingData = params.dataset  # type: ignore[attr-defined]  # every kind of job names its data
    try:
        data = datasets.find(session, chosen.name, asking=asking)
    except NotFoundError as error:
        errors.append({"pointer": "/dataset/name", "detail": error.detail})
        return None
    split = chosen.split if isinstance(chosen, EvaluationData) else "train"
    size = data.test_size if split == "test" else data.train_size
    if size == 0:
        errors.append({"pointer": "/dataset", "detail": f"the {split} split of {data.name} is empty"})
    elif chosen.subset is not None and chosen.subset > size:
        detail = f"the {split} split of {data.name} has {size} images; give 1 to {size}, or null for all"
        errors.append({"pointer": "/dataset/subset", "detail": detail})
    return data


def _protocol(
    session: Session, params: ProtocolParams, body: Mapping[str, Any], *, asking: Principal
) -> dict[str, Any]:
    """Check the whole plan: the data, the methods, and every child's fields (their models do not exist yet)."""
    errors: list[FieldError] = []
    for index, method in enumerate(params.methods):
        if method not in METHODS:
            detail = f"{method!r} is not a method; known: {', '.join(METHODS)}"
            errors.append({"pointer": f"/methods/{index}", "detail": detail})
        elif params.methods.index(method) < index:
            errors.append({"pointer": f"/methods/{index}", "detail": f"{method!r} is listed twice"})
    data = _dataset(session, params, asking=asking, errors=errors)
    if data is not None and data.test_size == 0:
        errors.append({"pointer": "/dataset/name", "detail": f"{data.name} has no test images to attack"})
    if errors or data is None:
        raise _refusal(errors)
    spec = params.model_dump(mode="json")
    versions = _resolve(session, params, spec=spec, errors=errors)
    errors += misfits(params, data, versions)
    if errors:
        raise _refusal(errors)

    def bodies(prefix: str) -> list[tuple[Step, dict[str, Any]]]:
        plan = steps(params.model_copy(update={"register_prefix": prefix}), data)
        return [(step, step.body({} if step.needs is None else {step.needs: "model@1"})) for step in plan]

    prefix = names.take(
        session,
        params.register_prefix,
        default=data.name,
        asking=asking,
        field="/register_prefix",
        names=lambda prefix: [given["register_as"] for _, given in bodies(prefix) if "register_as" in given],
        longest=PREFIX_LENGTH,
    )
    for step, given in bodies(prefix):
        try:
            if step.needs is None:
                validate(session, kind=step.kind, body=given, asking=asking)
            else:
                child = {k: v for k, v in given.items() if k not in ("register_as", "labels")}
                _parse((_params_class(step.kind, child), child), body=child)
        except InvalidSpecError as error:
            raise _refusal([_as_sent(item, step, body) for item in error.errors]) from None
    return {**spec, "register_prefix": prefix}


def _as_sent(error: FieldError, step: Step, body: Mapping[str, Any]) -> FieldError:
    """A step's error where the client gave its cause: the very field, if they sent it, or the preset."""
    if body.get(error["pointer"][1:].partition("/")[0]) is not None:
        return error
    where = error["pointer"] or "the body"
    return {"pointer": "/preset", "detail": f"its step {step.key} cannot run: {where}: {error['detail']}"}


def _default_name(params: BaseModel, versions: Mapping[str, ModelVersion]) -> str | None:
    """The name of the model, made from what the job does; None: it makes none."""
    if isinstance(params, EvaluationParams | CorruptionParams):
        return None
    if isinstance(params, TrainingParams):
        return f"{params.method}-{params.backbone.name.replace('/', '-')}-{params.dataset.name}"
    return f"{versions['model'].name}-linear"
