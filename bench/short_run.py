"""A short run by the paper's settings: C-LEAD and PGD-AT on ResNet-18 for about so many seconds each.

    python -m bench.short_run [cifar10.zip] [--device cuda] [--seconds 60] [--images 1000] [--preset paper-resnet18]

The preset's settings, but for the number of epochs, which follows from measured updates, and the probe's. The training
is followed by its loss; the classifiers are attacked by FGSM, PGD-20, CW-Linf and AutoAttack. Writes
``bench/results/short-run.json``, or ``short-run-cuda.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from app.services.presets import ProtocolParams, perturbation_size, probe_body, standard_attacks, training_body
from app.services.recipes import cosine
from bench.machine import described as machine
from bench.machine import results_file
from bench.training import seconds_per_update
from bench.victims import cifar10, described, fitted
from models.data import Dataset, subset
from models.evaluation import evaluate
from models.evaluation_spec import EvaluationParams
from models.methods.spec import METHODS
from models.networks import ImageModel
from models.progress import Silent


class _Losses(Silent):
    """Keeps what a training reports."""

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []

    def metrics(self, step: int, values: dict[str, float]) -> None:
        if "loss" in values:
            self.points.append({"step": step, **values})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", nargs="?", type=Path)
    parser.add_argument("--preset", default="paper-resnet18")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--probe-epochs", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    dataset = cifar10(chosen.archive)
    options = {name: value for name, value in vars(chosen).items() if name not in ("archive", "device")}
    report: dict[str, Any] = {**machine(chosen.device), "options": options, "rows": []}
    for method in ("clead", "pgd-at"):
        report["rows"].append(_row(method, dataset, chosen))
        results_file("short-run", chosen.device).write_text(json.dumps(report, indent=2) + "\n")


def _row(method: str, dataset: Dataset, chosen: argparse.Namespace) -> dict[str, Any]:
    info = described(dataset)
    protocol = ProtocolParams.model_validate(
        {"preset": chosen.preset, "dataset": {"name": info.name}, "methods": [method]}
    )
    body = training_body(protocol, info, method=method)
    seconds = seconds_per_update(body, dataset, device=chosen.device)
    whole = METHODS[method].params.model_validate(body)
    updates = len(dataset.train) // whole.batch_size
    epochs = max(1, round(chosen.seconds / seconds / updates))
    losses = _Losses()
    probing = probe_body(protocol, info, model="encoder@1") | {"epochs": chosen.probe_epochs}
    model, result = fitted(body | cosine(epochs), dataset, probing=probing, reporter=losses, device=chosen.device)
    row = {"method": method, "epochs": epochs, "batch_size": whole.batch_size, **result}
    row |= {"losses": losses.points, **_attacked(model, dataset, chosen)}
    print(json.dumps({name: value for name, value in row.items() if name != "losses"}), flush=True)
    return row


def _attacked(model: ImageModel, dataset: Dataset, chosen: argparse.Namespace) -> dict[str, Any]:
    images = subset(dataset.test, chosen.images, seed=0)
    autoattack = {"name": "autoattack", "eps": perturbation_size(dataset.image_shape)}
    spec = {"model": "classifier@1", "dataset": {"name": "cifar10"}, "examples": 0, "batch_size": 1000}
    spec |= {"attacks": [*standard_attacks(dataset.image_shape), autoattack], "precision": "float32"}
    params = EvaluationParams.model_validate(spec)
    result = evaluate(model, images, params, reporter=Silent(), device=chosen.device).result
    kept = ("name", "robust_accuracy", "ci95", "seconds")
    attacks = [{name: attack[name] for name in kept} for attack in result["attacks"]]
    clean = {"accuracy": result["clean_accuracy"], "ci95": result["clean_ci95"]}
    return {"clean": clean, "attacks": attacks, "warnings": [found["code"] for found in result["warnings"]]}


if __name__ == "__main__":
    main()
