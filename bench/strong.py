"""Attacks the models of a finished demo harder than the demo did: do its numbers hold?

    python -m bench.strong .clead/demo

AutoAttack, and PGD and CW-Linf with 200 steps and 10 restarts, on the images that the demo used. Prints the demo's
PGD-20 beside them and the worst of all, and writes ``bench/results/strong.json``.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from app.records.session import Database
from app.services import models as registry
from app.settings import Settings
from app.storage import Storage
from models import data
from models.checkpoints import load_model
from models.evaluation import evaluate
from models.evaluation_spec import EvaluationParams
from models.networks import ImageModel
from models.progress import Silent
from models.specs import ModelCard

RESULTS = Path(__file__).parent / "results" / "strong.json"


def main(home: Path) -> None:
    report = json.loads((home / "report.json").read_text())
    eps = report["protocol"]["eps"]
    digits = data.load("digits", root=Path(tempfile.gettempdir())).test
    rows = []
    print(f"{len(digits)} test images, Linf, eps {eps}; robust accuracy")
    for row in report["rows"]:
        found = attack(registered(home / "service", row["model"]), digits, eps=eps)
        rows.append({"method": row["method"], "model": row["model"], "pgd-20": row["pgd"], **found})
        shown = {"pgd-20": row["pgd"], **found}
        numbers = [f"{name} {value:.3f}" for name, value in shown.items() if isinstance(value, float)]
        print(f"  {row['method']:<10} " + "  ".join(numbers) + f"  parts {found['parts']}", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"eps": eps, "seed": report["protocol"]["seed"], "rows": rows}, indent=2) + "\n")


def registered(home: Path, reference: str) -> ImageModel:
    """The model from the registry of the demo's own service."""
    settings = Settings(home=home)
    with Database(settings.database_url).session() as session:
        version = registry.resolve(session, reference)
    with tempfile.TemporaryDirectory() as folder:
        weights = Storage(settings.storage_url).fetch(version.sha256, Path(folder) / "weights")
        return load_model(weights, ModelCard.model_validate(version.card))


def attack(model: ImageModel, images: data.ImageSet, *, eps: float) -> dict[str, Any]:
    """Robust accuracy under each attack, after each part of AutoAttack, and under all of them together."""
    long = {"eps": eps, "step_size": eps / 10, "steps": 200, "restarts": 10}
    asked = [{"name": "pgd", **long}, {"name": "cw-linf", **long}, {"name": "autoattack", "eps": eps}]
    spec = {"model": "demo@1", "dataset": {"name": "digits"}, "attacks": asked, "examples": 0, "seed": 1}
    params = EvaluationParams.model_validate(spec)
    result = evaluate(model, images, params, reporter=Silent(), device="cpu").result
    pgd, cw, autoattack = result["attacks"]
    return {
        "pgd-200x10": pgd["robust_accuracy"],
        "cw-linf-200x10": cw["robust_accuracy"],
        "autoattack": autoattack["robust_accuracy"],
        "worst": result["worst_case_accuracy"],
        "parts": {part["name"]: part["robust_accuracy"] for part in autoattack["parts"]},
        "warnings": [warning["code"] for warning in result["warnings"]],
    }


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".clead/demo"))
