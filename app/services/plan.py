"""The steps of a protocol job, as its spec alone decides them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.services.datasets import DatasetInfo
from app.services.presets import ProtocolParams, evaluation_body, probe_body, training_body
from models.methods.spec import METHODS

References = Mapping[str, str]
"""Step key → reference of the model that the step registered."""


@dataclass(frozen=True)
class Step:
    """One child: its kind, the step whose model it needs (None: none), and its body once that model is known."""

    key: str
    kind: str
    method: str
    needs: str | None
    body: Callable[[References], dict[str, Any]]


def steps(params: ProtocolParams, data: DatasetInfo) -> list[Step]:
    """The steps, inputs before users; every model is trained before the first attack on another is begun."""
    training: list[Step] = []
    attacks: list[Step] = []
    for method in params.methods:
        chain = _training(params, data, method)
        training += chain
        attacks.append(_evaluation(params, data, method, classifier=chain[-1].key))
    return [*training, *attacks]


def _training(params: ProtocolParams, data: DatasetInfo, method: str) -> list[Step]:
    """The steps that end in a classifier: a teacher if the method needs one, the method, a probe of an encoder."""
    name = f"{params.register_prefix or data.name}-{method}"[:90]
    kind, teacher = METHODS[method].kind, METHODS[method].teacher
    steps: list[Step] = []
    if teacher is not None:

        def teach(references: References) -> dict[str, Any]:
            return {**training_body(params, data, method=teacher), "register_as": f"{name}-teacher"}

        steps.append(Step(f"teacher:{method}", METHODS[teacher].kind, method, None, teach))
    needs = steps[0].key if steps else None

    def train(references: References) -> dict[str, Any]:
        base = {} if needs is None else {"base_model": references[needs]}
        registered = name if kind == "train" else f"{name}-encoder"
        return {**training_body(params, data, method=method), **base, "register_as": registered}

    steps.append(Step(f"{kind}:{method}", kind, method, needs, train))
    if kind == "pretrain":

        def probe(references: References) -> dict[str, Any]:
            return {**probe_body(params, data, model=references[f"{kind}:{method}"]), "register_as": name}

        steps.append(Step(f"probe:{method}", "probe", method, f"{kind}:{method}", probe))
    return steps


def _evaluation(params: ProtocolParams, data: DatasetInfo, method: str, *, classifier: str) -> Step:
    def evaluate(references: References) -> dict[str, Any]:
        return evaluation_body(params, data, model=references[classifier])

    return Step(f"evaluate:{method}", "evaluate", method, classifier, evaluate)
