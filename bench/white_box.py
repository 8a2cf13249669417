"""Why PGD cannot be weaker than FGSM in a white-box table: the same models, white-box and by transfer, side by side.

    python -m bench.white_box [cifar10.zip] [--images 1000] [--seed 0]

Trains an undefended model, C-LEAD with a linear probe, and PGD-AT by the preset ``quick`` on 10,000 images of CIFAR-10,
and another undefended model to craft on (minutes). Then FGSM, PGD-20 and CW-Linf-20 at 8/255: with the model's own
gradients, and crafted on the other model. Writes ``bench/results/white_box.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from app.services.presets import ProtocolParams, probe_body, standard_attacks, training_body
from bench.victims import cifar10, described, fitted
from models.data.images import Dataset, subset
from models.evaluation import evaluate
from models.evaluation_spec import EvaluationParams
from models.networks import ImageModel
from models.progress import Silent

RESULTS = Path(__file__).parent / "results" / "white_box.json"
METHODS_SHOWN = ("standard", "clead", "pgd-at")
TRAINING_IMAGES = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    dataset = cifar10(chosen.archive)
    other = classifier("standard", dataset, seed=chosen.seed + 1)
    rows = []
    for method in METHODS_SHOWN:
        began = time.monotonic()
        model = classifier(method, dataset, seed=chosen.seed)
        seconds = time.monotonic() - began
        row = {"method": method, "training_seconds": round(seconds, 1), **attacked(model, other, dataset, chosen)}
        rows.append(row)
        print(line(row), flush=True)
    report = {"torch": torch.__version__, "images": chosen.images, "seed": chosen.seed, "rows": rows}
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")


def classifier(method: str, dataset: Dataset, *, seed: int) -> ImageModel:
    """As the protocol's preset ``quick`` trains it."""
    data = {"name": "cifar10", "subset": TRAINING_IMAGES}
    params = ProtocolParams.model_validate({"preset": "quick", "dataset": data, "methods": [method], "seed": seed})
    info = described(dataset)
    body = training_body(params, info, method=method)
    return fitted(body, dataset, probing=probe_body(params, info, model="encoder"))[0]


def attacked(model: ImageModel, other: ImageModel, dataset: Dataset, chosen: argparse.Namespace) -> dict[str, Any]:
    """Accuracies with their intervals: clean, white box, and of images crafted on ``other``."""
    attacks = standard_attacks(dataset.image_shape)
    transfers = [{"name": "transfer", "source": "other@1", "attack": attack} for attack in attacks]
    fields = {
        "model": "shown@1",
        "dataset": {"name": "cifar10", "subset": chosen.images},
        "attacks": attacks + transfers,
        "examples": 0,
        "seed": chosen.seed,
    }
    params = EvaluationParams.model_validate(fields)
    images = subset(dataset.test, chosen.images, seed=0)
    sources = {"other@1": other}
    result = evaluate(model, images, params, reporter=Silent(), device=torch.device("cpu"), sources=sources).result
    names = [attack["name"] for attack in attacks]
    found: dict[str, Any] = {"clean": result["clean_accuracy"], "white-box": {}, "transfer": {}}
    for name, row in zip(names * 2, result["attacks"], strict=True):
        found[row["access"]][name] = {"robust_accuracy": row["robust_accuracy"], "ci95": row["ci95"]}
    return found


def line(row: dict[str, Any]) -> str:
    """The row as docs/white-box.md shows it, in per cent."""
    cells = [row["method"], f"{100 * row['clean']:.1f}"]
    for access in ("white-box", "transfer"):
        cells += [f"{100 * cell['robust_accuracy']:.1f}" for cell in row[access].values()]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
