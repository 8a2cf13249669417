"""AutoAttack on more images of the models in ``bench.methods``' table, on any device.

    python -m bench.methods_autoattack cifar10.zip --home .clead/methods-cifar [--preset small] [--images 1000]
        [--only clead pgd-at] [--fractions 1 0.1] [--device cuda] [--processes 12]

Takes the models from the registry of the service that trained them and attacks them without it, several at a time, with
gradients in float32 whatever the device. A row that had as many images before is left as it is, and so is one whose
weights the home does not hold: names repeat from home to home, so seconds of training tell whether a model is the
row's. Writes into ``bench/results/methods-….json`` and the table in docs/results.md.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from math import isclose
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from sqlalchemy.orm import Session

from app.errors import NotFoundError
from app.records import Job
from app.records.session import Database
from app.services import models as registry
from app.services.presets import perturbation_size
from app.settings import Settings
from bench.machine import described as machine
from bench.machine import on_gpu
from bench.methods_plan import WAYS
from bench.methods_table import least, read, results_of, rewrite, with_attack
from bench.signals import end_in_order_at_sigterm
from bench.strong import registered
from bench.victims import CACHE, cifar10
from models.data import Dataset, load, subset
from models.evaluation import evaluate
from models.evaluation_spec import EvaluationParams
from models.progress import Silent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", nargs="?", type=Path)
    parser.add_argument("--home", type=Path, default=Path(".clead/methods"))
    parser.add_argument("--preset", default="quick", choices=["quick", "small"])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--fractions", type=float, nargs="+", default=[1.0, 0.1, 0.01])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    name = "cifar10-jpg" if chosen.archive else "digits"
    dataset = _dataset(chosen.archive)
    images = min(chosen.images, len(dataset.test))
    known = read(name, chosen.preset)["rows"]
    if not known:
        parser.error(f"there are no rows in {results_of(name, chosen.preset)}")
    rows = [
        row
        for row in known
        if row["way"] in chosen.only and row["fraction"] in chosen.fractions and _images(row) < images
    ]
    rows.sort(key=least, reverse=True)  # what takes long comes first
    eps = perturbation_size(dataset.image_shape)
    on = machine(chosen.device)["processor"]
    end_in_order_at_sigterm()
    with ProcessPoolExecutor(chosen.processes, mp_context=get_context("spawn")) as pool:
        home = chosen.home / "service"
        began = {pool.submit(_attacked, home, row, chosen.archive, images, eps, chosen.device): row for row in rows}
        for future in as_completed(began):
            row, found = began[future], future.result()
            if isinstance(found, str):
                print(f"left out: {found}", flush=True)
                continue
            print(json.dumps({"model": row["model"], **found}), flush=True)
            add = partial(with_attack, row=row, name="autoattack", found={**found, "on": on})
            rewrite(name, chosen.preset, add)
    print(rewrite(name, chosen.preset, lambda report: report))


def _dataset(archive: Path | None) -> Dataset:
    return cifar10(archive) if archive else load("digits", root=CACHE)


def _images(row: dict[str, Any]) -> int:
    return int(row["attacks"].get("autoattack", {}).get("images", 0))


def check_training(home: Path, row: dict[str, Any]) -> None:
    """Raises NotFoundError unless the model that the home has under the row's name is the one of the row.

    The seconds of all jobs that led to it are told apart to a fraction that no other training meets.
    """
    found = {"training": 0.0, "probe": 0.0}
    with Database(Settings(home=home).database_url).session() as session:
        for job in _jobs_behind(session, row["model"]):
            found["probe" if job.kind == "probe" else "training"] += (job.result or {})["seconds"]
    for kind, seconds in found.items():
        if not isclose(seconds, row[f"{kind}_seconds"], rel_tol=1e-9):
            told = f"its {kind} took {seconds:.1f} s, the row's {row[f'{kind}_seconds']:.1f} s"
            raise NotFoundError(f"{row['model']} is another model here: {told}")


def _jobs_behind(session: Session, reference: str) -> list[Job]:
    """The job that made this version, and those that made the versions that it began with."""
    jobs: dict[str, Job] = {}
    waiting = [reference]
    while waiting:
        version = registry.resolve(session, waiting.pop())
        job = session.get(Job, version.job_id or "")
        if job is None:
            raise NotFoundError(f"nothing tells how long {version.reference} was trained: its job is gone")
        jobs[job.id] = job
        waiting += [job.spec[field] for field in ("model", "init", "base_model") if job.spec.get(field)]
    return list(jobs.values())


def _attacked(
    home: Path, row: dict[str, Any], archive: Path | None, images: int, eps: float, device: str
) -> dict[str, Any] | str:
    """In a process of its own: the same images and attack as an evaluation job's. Text: why the row is left out."""
    torch.set_num_threads(1)
    model = row["model"]
    try:
        check_training(home, row)
        network = registered(home, model)
    except NotFoundError as error:
        return error.detail
    chosen = subset(_dataset(archive).test, images, seed=0)
    spec = {"model": model, "dataset": {"name": "test"}, "attacks": [{"name": "autoattack", "eps": eps}]}
    options = {"precision": "float32", "examples": 0, "sanity_checks": False}
    options |= {"batch_size": images if on_gpu(device) else 100}
    params = EvaluationParams.model_validate(spec | options)
    result = evaluate(network, chosen, params, reporter=Silent(), device=device).result
    (attack,) = result["attacks"]
    return {
        "images": images,
        "clean_accuracy": result["clean_accuracy"],
        "robust_accuracy": attack["robust_accuracy"],
        "ci95": attack["ci95"],
        "parts": {part["name"]: part["robust_accuracy"] for part in attack["parts"]},
        "seconds": attack["seconds"],
    }


if __name__ == "__main__":
    main()
