"""Comparisons of evaluations, in the layout of the paper's Table 1: a row a model and attack, before and after."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, defer, lazyload

from app.errors import ConflictError, NotFoundError
from app.records import Job, ModelVersion
from app.services import models
from app.services.plan import Step
from app.services.tokens import OPERATOR, Principal

BASE_METHOD = "standard"
COLUMNS = ("model", "method", "dataset", "images", "clean", "attack", "eps", "before", "after", "warnings")


def compare(session: Session, job_ids: Sequence[str], *, asking: Principal = OPERATOR) -> list[dict[str, Any]]:
    """Rows for finished evaluations (a protocol job stands for its own), in the order of ``job_ids``.

    ``after`` is the model's robust accuracy; ``before`` that of the undefended model (trained by ``standard``) among
    these jobs under the same attack on the same images: the one of the same protocol job, else the one of the same
    backbone. Null if there is none, if there are several, or if the row is of an undefended model itself.
    ``warnings`` are the codes of the evaluation's.
    Raises NotFoundError, ConflictError for a job that has no evaluation to show.
    """
    evaluations = _evaluations(session, job_ids, asking=asking)
    names = {str((job.result or {})["model"]) for job in evaluations}
    trained_by = {name: method_of(session, name) for name in names}
    backbones = {name: _backbone_of(session, name) for name in names}
    protocols = {job.id: job.parent_id for job in evaluations}
    rows = [row for job in evaluations for row in _rows_of(job, trained_by)]
    bases: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["method"] == BASE_METHOD:
            bases.setdefault(_key(row), []).append(row)
    for row in rows:
        like = [] if row["method"] == BASE_METHOD else bases.get(_key(row), [])
        base = _only([other for other in like if protocols[other["job"]] == protocols[row["job"]] is not None])
        if base is None:
            base = _only([other for other in like if backbones[other["model"]] == backbones[row["model"]]])
        row["before"] = None if base is None else base["after"]
        row["before_model"] = None if base is None else base["model"]
    return rows


def _only(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The row of the one model that they all are of, the same whatever their order; None for none or several models."""
    return min(rows, key=lambda row: str(row["job"])) if len({row["model"] for row in rows}) == 1 else None


def _evaluations(session: Session, job_ids: Sequence[str], *, asking: Principal) -> list[Job]:
    """The finished evaluations that these jobs are or stand for, each once."""
    named = _by_id(session, job_ids)
    ids: dict[str, None] = {}
    for job_id in job_ids:
        job = named.get(job_id)
        if job is None or not asking.owns(job.account):
            raise NotFoundError(f"there is no job {job_id!r}")
        if job.status != "succeeded" or job.result is None or job.kind not in ("evaluate", "protocol"):
            raise ConflictError(
                f"job {job.id} is a {job.status} {job.kind}; only finished evaluations and protocols compare"
            )
        ids |= dict.fromkeys([row["evaluation"] for row in job.result["rows"]] if job.kind == "protocol" else [job.id])
    named |= _by_id(session, [job_id for job_id in ids if job_id not in named])
    return [named[job_id] for job_id in ids]


def _by_id(session: Session, job_ids: Sequence[str]) -> dict[str, Job]:
    query = select(Job).where(Job.id.in_(job_ids)).options(defer(Job.examples), lazyload(Job.labels))
    return {job.id: job for job in session.scalars(query)} if job_ids else {}


def _rows_of(job: Job, trained_by: Mapping[str, str | None]) -> Iterable[dict[str, Any]]:
    result: dict[str, Any] = job.result or {}
    names = attack_names(result["attacks"])
    for name, attack in zip(names, result["attacks"], strict=True):
        ball = attack["spec"].get("attack", attack["spec"])  # a transferred attack's ball is that of its crafting
        yield {
            "model": result["model"],
            "method": trained_by[result["model"]],
            "dataset": result["dataset"]["name"],
            "data": {**job.spec["dataset"], "sha256": result["dataset"].get("sha256")},
            "images": result["dataset"]["size"],
            "clean": result["clean_accuracy"],
            "attack": name,
            "norm": ball.get("norm"),
            "eps": ball.get("eps"),
            "spec": attack["spec"],
            "after": attack["robust_accuracy"],
            "ci95": attack["ci95"],
            "threat_model": attack.get("access", "white-box"),  # results of the first releases do not tell
            "warnings": list(dict.fromkeys(warning["code"] for warning in result.get("warnings", []))),
            "job": job.id,
        }


def _key(row: Mapping[str, Any]) -> str:
    return json.dumps([row["spec"], row["data"]], sort_keys=True)


def method_of(session: Session, reference: str) -> str | None:
    """The method that trained a model, of the pretraining for a probed one; null for uploaded or deleted models."""
    try:
        version: ModelVersion | None = models.resolve(session, reference)
    except NotFoundError:
        return None
    while version is not None and version.job_id is not None:
        spec = session.scalars(select(Job.spec).where(Job.id == version.job_id)).one()
        if "method" in spec:
            return str(spec["method"])
        try:
            version = models.resolve(session, spec["model"])
        except NotFoundError:
            return None
    return None


def _backbone_of(session: Session, reference: str) -> Any:
    """As the model's card has it; null for deleted models."""
    try:
        return models.resolve(session, reference).card["backbone"]
    except NotFoundError:
        return None


def attack_names(attacks: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each attack of a result that no other has.

    ``pgd``, ``pgd-100`` for a second one with 100 steps, ``pgd-l2`` in that norm.
    """
    names: list[str] = []
    for attack in attacks:
        name, steps = attack["name"], attack["spec"].get("steps")
        if attack["spec"].get("norm") == "l2" and not name.endswith("-l2"):
            name = f"{name}-l2"
        candidates = [name, f"{name}-{steps}"] if steps is not None else [name]
        candidates += [f"{candidates[-1]}-{number}" for number in range(2, len(attacks) + 2)]
        names.append(next(candidate for candidate in candidates if candidate not in names))
    return names


def protocol_result(plan: Sequence[Step], jobs: Mapping[str, Job], *, seed: int) -> dict[str, Any]:
    """The result of a protocol job, from its finished children by step key: a row a method.

    ``seconds`` is the time that the method's trainings took, pretraining and probe included and pauses not;
    ``warnings`` are those of all its steps, without the advice of the evaluation's, which that job has.
    """
    rows = []
    for step in plan:
        if step.kind != "evaluate":
            continue
        job = jobs[step.key]
        result: dict[str, Any] = job.result or {}
        names = attack_names(result["attacks"])
        own = {other.key: jobs[other.key] for other in plan if other.method == step.method}
        row = {"method": step.method, "model": result["model"], "clean": result["clean_accuracy"]}
        row |= {name: attack["robust_accuracy"] for name, attack in zip(names, result["attacks"], strict=True)}
        row["seconds"] = sum(_seconds_of_training(other) for key, other in own.items() if key != step.key)
        row["ci95"] = {name: attack["ci95"] for name, attack in zip(names, result["attacks"], strict=True)}
        if "clean_ci95" in result:
            row["ci95"]["clean"] = result["clean_ci95"]
        row["evaluation"] = job.id
        row["warnings"] = [warning for key, other in own.items() for warning in _warnings(other, step=key)]
        rows.append(row)
        first = result
    return {"rows": rows, "protocol": _conditions(first, seed=seed)}


def _warnings(job: Job, *, step: str) -> list[dict[str, str]]:
    """Of one step's result: which step warned, the code and the evidence."""
    warnings = (job.result or {}).get("warnings", [])
    return [{"step": step, "code": warning["code"], "detail": warning["detail"]} for warning in warnings]


def _conditions(result: Mapping[str, Any], *, seed: int) -> dict[str, Any]:
    """What a reader must know to judge the rows: threat model, norm, radius, steps, number of images."""
    bounded = [attack["spec"] for attack in result["attacks"] if attack["spec"].get("eps") is not None]
    steps = next((spec["steps"] for spec in bounded if spec.get("steps") is not None), None)
    return {
        "threat_model": result.get("threat_model", "white-box"),
        "norm": bounded[0].get("norm", "linf") if bounded else None,
        "eps": bounded[0]["eps"] if bounded else None,
        "steps": steps,
        "images": result["dataset"]["size"],
        "seed": seed,
    }


def _seconds_of_training(job: Job) -> float:
    seconds: float = (job.result or {}).get("seconds", 0.0)
    return round(seconds, 3)


def render(rows: Sequence[Mapping[str, Any]], format: str) -> str:
    """Rows as ``json``, ``csv``, ``markdown`` or ``latex`` text."""
    renderers: dict[str, Callable[[Sequence[Mapping[str, Any]]], str]] = {
        "json": lambda rows: json.dumps({"rows": list(rows)}, indent=2, ensure_ascii=False),
        "csv": _csv,
        "markdown": _markdown,
        "latex": _latex,
    }
    return renderers[format](rows)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    target = io.StringIO()
    columns = [*COLUMNS, "ci95_low", "ci95_high"]
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = [*(row[column] for column in COLUMNS[:-1]), ", ".join(row["warnings"]), *row["ci95"]]
        writer.writerow(["" if value is None else value for value in values])
    return target.getvalue()


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    for row in rows:
        cells = [_cell(row, column).replace("\\", "\\\\").replace("|", "\\|") for column in COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _latex(rows: Sequence[Mapping[str, Any]]) -> str:
    """A tabular for the booktabs package."""
    lines = [r"\begin{tabular}{lllrrlrrrl}", r"\toprule", " & ".join(COLUMNS) + r" \\", r"\midrule"]
    lines += [" & ".join(_tex(_cell(row, column)) for column in COLUMNS) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _cell(row: Mapping[str, Any], column: str) -> str:
    """Accuracies in percent with one decimal, as the field's tables give them."""
    value = ", ".join(row["warnings"]) if column == "warnings" else row[column]
    if value is None or value == "":
        return "–"
    if column in ("clean", "before", "after"):
        return f"{100 * value:.1f}"
    return f"{value:.4g}" if column == "eps" else str(value)


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
    return "".join(special.get(letter, f"\\{letter}" if letter in "&%$#_{}" else letter) for letter in text)
