"""Do our attacks find what independent implementations find? 500 CIFAR-10 images, the robust model of bench.attacks.

    python -m bench.parity [cifar10.zip] [--only apgd-ce,cw-l2,…]

Each attack alone, from the same images, at the same iterations, random starts drawn independently; ours once with
gradients in float32 and once as the hardware computes them fastest. Verdicts in float32 over all images by us for
everybody. Prints robust accuracy (or success and median norm) side by side and writes ``bench/results/parity.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import torchattacks
from torch import Tensor, nn

from bench import peers  # before adv-lib, for which it stands in a module
from bench.attacks import CLASSES, their_row
from bench.victims import EPS, cifar10, test_images, trained
from models.data.images import ImageSet
from models.evaluation import evaluate
from models.evaluation_spec import EvaluationParams
from models.networks import frozen
from models.progress import Silent

from adv_lib.attacks.auto_pgd import apgd  # isort: skip
from adv_lib.attacks.carlini_wagner import carlini_wagner_l2  # isort: skip

RESULTS = Path(__file__).parent / "results" / "parity.json"
IMAGES = 500
CW = {"steps": 60, "binary_search_steps": 5, "lr": 0.01, "initial_const": 0.1, "abort_early": False}
QUERIES = 1_000
CASES: dict[str, tuple[dict[str, Any], dict[str, peers.Attack]]] = {
    "fgsm": (
        {"name": "fgsm", "eps": EPS},
        {"torchattacks": peers.batched(lambda m, x, y: torchattacks.FGSM(m, eps=EPS)(x, y))},
    ),
    "apgd-ce": (
        {"name": "apgd-ce", "eps": EPS},
        {
            "torchattacks": peers.batched(lambda m, x, y: torchattacks.APGD(m, eps=EPS, steps=100, loss="ce")(x, y)),
            "adv-lib": peers.batched(
                lambda m, x, y: apgd(m, x, y, eps=EPS, norm=float("inf"), n_iter=100, loss_function="ce")
            ),
        },
    ),
    "apgd-dlr-targeted": (
        {"name": "apgd-dlr-targeted", "eps": EPS},
        {"torchattacks": peers.batched(lambda m, x, y: torchattacks.APGDT(m, eps=EPS, steps=100, n_classes=10)(x, y))},
    ),
    "fab-t": (
        {"name": "fab-t", "eps": EPS},
        {
            "torchattacks": peers.batched(
                lambda m, x, y: torchattacks.FAB(m, eps=EPS, steps=100, multi_targeted=True, n_classes=10)(x, y)
            )
        },
    ),
    "square": (
        {"name": "square", "eps": EPS, "queries": QUERIES},
        {"torchattacks": peers.batched(lambda m, x, y: torchattacks.Square(m, eps=EPS, n_queries=QUERIES)(x, y))},
    ),
    "cw-l2": (
        {"name": "cw-l2", **CW},
        {
            "adv-lib": peers.batched(
                lambda m, x, y: carlini_wagner_l2(
                    m,
                    x,
                    y,
                    learning_rate=CW["lr"],
                    initial_const=CW["initial_const"],
                    binary_search_steps=CW["binary_search_steps"],
                    max_iterations=CW["steps"],
                    abort_early=False,
                )
            )
        },
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", nargs="?", type=Path)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    dataset = cifar10(options.archive)
    model = trained("robust", dataset)
    images, labels = test_images(dataset, IMAGES)
    for name, (spec, theirs) in CASES.items():
        if options.only and name not in options.only.split(","):
            continue
        rows = [ours(model, images, labels, spec, precision=precision) for precision in ("float32", "auto")]
        with frozen(model):
            for library, attack in theirs.items():
                began = time.perf_counter()
                found = attack(model, images, labels)
                row = their_row(model, images, labels, inside(found, images, name))
                rows.append({"library": library, **row, "seconds": time.perf_counter() - began})
        table: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        table[name] = {"images": IMAGES, "spec": spec, "rows": rows}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(table, indent=2) + "\n")
        for row in rows:
            norm = "" if row["median_l2"] is None else f"   median L2 {row['median_l2']:.4f}"
            print(
                f"{name:<18} {row['library']:<16} robust {row['robust_accuracy']:.3f}   success "
                f"{row['success_rate']:.3f}{norm}   {row['seconds']:.0f} s",
                flush=True,
            )


def ours(model: nn.Module, images: Tensor, labels: Tensor, spec: dict[str, Any], *, precision: str) -> dict[str, Any]:
    asked = {"attacks": [spec], "examples": 0, "sanity_checks": False, "precision": precision}
    params = EvaluationParams.model_validate({"model": "bench@1", "dataset": {"name": "cifar10"}, **asked})
    data = ImageSet((images * 255).round().byte(), labels, CLASSES)
    row = evaluate(model, data, params, reporter=Silent(), device="cpu").result["attacks"][0]
    kept = {key: row[key] for key in ("robust_accuracy", "success_rate", "median_l2", "seconds")}
    return {"library": f"clead {precision}", **kept}


def inside(found: Tensor, images: Tensor, name: str) -> Tensor:
    """Points outside the ball do not count: FAB seeks the nearest point, wherever it is."""
    if name == "cw-l2":
        return found
    fits = (found - images).abs().flatten(1).amax(dim=1) <= EPS + 1e-6
    return torch.where(fits.view(-1, 1, 1, 1), found, images)


if __name__ == "__main__":
    main()
