"""AutoAttack on more images of the models in ``bench.methods``' table, on any device.

    python -m bench.methods_autoattack cifar10.zip --home .clead/methods-cifar [--preset small] [--images 1000]
        [--only clead pgd-at] [--fractions 1 0.1] [--device cuda] [--processes 12]

Takes the models from the registry of the service that trained them and attacks them without it, several at a time, with
gradients in float32 whatever the device. A row that had as many images before is left as it is, and so is one whose
weights the home does not hold. Writes into ``bench/results/methods-….json`` and the table in docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch

from app.errors import NotFoundError
from app.services.presets import perturbation_size
from bench.machine import described as machine
from bench.machine import on_gpu
from bench.methods_plan import WAYS
from bench.methods_table import least, results_of, write_table
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
    results = results_of(name, chosen.preset)
    report = json.loads(results.read_text())
    rows = [
        row
        for row in report["rows"]
        if row["way"] in chosen.only and row["fraction"] in chosen.fractions and _images(row) < images
    ]
    rows.sort(key=least, reverse=True)  # what takes long comes first
    eps = perturbation_size(dataset.image_shape)
    on = machine(chosen.device)["processor"]
    signal.signal(signal.SIGTERM, _end)
    with ProcessPoolExecutor(chosen.processes, mp_context=get_context("spawn")) as pool:
        home = chosen.home / "service"
        began = {
            pool.submit(_attacked, home, row["model"], chosen.archive, images, eps, chosen.device): row for row in rows
        }
        for future in as_completed(began):
            row, found = began[future], future.result()
            if found is None:
                print(f"left out, there are no weights of {row['model']}", flush=True)
                continue
            row["attacks"]["autoattack"] = {**found, "on": on}
            print(json.dumps({"model": row["model"], **found}), flush=True)
            results.write_text(json.dumps(report, indent=2) + "\n")
    print(write_table(report))


def _end(*_: object) -> None:
    """With the processes that attack, which would go on for minutes."""
    for child in active_children():
        child.terminate()
    sys.exit(143)


def _dataset(archive: Path | None) -> Dataset:
    return cifar10(archive) if archive else load("digits", root=CACHE)


def _images(row: dict[str, Any]) -> int:
    return int(row["attacks"].get("autoattack", {}).get("images", 0))


def _attacked(
    home: Path, model: str, archive: Path | None, images: int, eps: float, device: str
) -> dict[str, Any] | None:
    """In a process of its own: the same images and attack as an evaluation job's. None: the weights are not there."""
    torch.set_num_threads(1)
    try:
        network = registered(home, model)
    except NotFoundError:
        return None
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
