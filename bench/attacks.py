"""PGD-20 on digits, ours beside torchattacks and foolbox: robust accuracy and seconds, on two models.

    python -m bench.attacks

Trains both models first (under a minute), then alternates the three libraries and takes the median of five runs.
Writes ``bench/results/attacks.json``.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foolbox
import torch
import torchattacks
from torch import Tensor, nn

from models import data
from models.attacks.noise import PerImageNoise
from models.attacks.objectives import is_right
from models.attacks.spec import ATTACKS
from models.methods.spec import METHODS
from models.networks import frozen
from models.progress import Silent
from models.training import train

EPS, STEPS, STEP_SIZE, RUNS = 0.2, 20, 0.05, 5
RESULTS = Path(__file__).parent / "results" / "attacks.json"
NETWORK = {"name": "resnet18", "width": 32, "blocks": [1, 1]}
RECIPES: dict[str, dict[str, Any]] = {
    "standard": {"method": "standard", "epochs": 15},
    "robust": {
        "method": "pgd-at",
        "epochs": 15,
        "attack": {"name": "pgd", "eps": EPS, "steps": 5, "step_size": STEP_SIZE},
    },
}
COMMON = {
    "dataset": {"name": "digits"},
    "backbone": NETWORK,
    "batch_size": 64,
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    "schedule": {"name": "cosine", "warmup_epochs": 1},
    "augmentation": {"crop_padding": 1, "flip": False},
}


def main() -> None:
    digits = data.load("digits", root=Path(tempfile.gettempdir()))
    images, labels = digits.test.pixels(), digits.test.labels
    table = {name: compare(trained(recipe, digits), images, labels) for name, recipe in RECIPES.items()}
    ratios = {}
    for name, rows in table.items():
        print(f"{name} model, PGD-{STEPS}, eps {EPS}, {len(images)} images, {torch.get_num_threads()} threads")
        for row in rows:
            print(f"  {row['library']:<14} robust accuracy {row['robust_accuracy']:.3f}   {row['seconds']:.2f} s")
        fastest_peer = min(row["seconds"] for row in rows if row["library"] != "clead")
        ratios[name] = fastest_peer / next(row["seconds"] for row in rows if row["library"] == "clead")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"torch": torch.__version__, "models": table, "ratios": ratios}, indent=2) + "\n")
    print("ratios: " + " ".join(f"pgd20-{name}={ratio:.1f}" for name, ratio in ratios.items()))


def trained(recipe: dict[str, Any], digits: data.Dataset) -> nn.Module:
    params = METHODS[recipe["method"]].params.model_validate({**COMMON, **recipe})
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(
            params, digits, init=None, base=None, workdir=Path(folder), resume=None, reporter=Silent(), device="cpu"
        )
    return outcome.model


def compare(model: nn.Module, images: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """One row a library: robust accuracy over all images, judged by us in float32, and the median of the seconds."""
    pgd = ATTACKS["pgd"]
    params = pgd.params.model_validate({"eps": EPS, "steps": STEPS, "step_size": STEP_SIZE})
    torchattack = torchattacks.PGD(model, eps=EPS, alpha=STEP_SIZE, steps=STEPS)
    fmodel = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    foolbox_pgd = foolbox.attacks.LinfPGD(abs_stepsize=STEP_SIZE, steps=STEPS)

    def ours() -> Tensor:
        with torch.no_grad():
            right = is_right(model(images), labels)
        found = images.clone()  # what is wrong already needs no attack
        noise = PerImageNoise(torch.arange(int(right.sum())))
        found[right] = pgd.run(model, images[right], labels[right], params, noise=noise)
        return found

    libraries: dict[str, Callable[[], Tensor]] = {
        "clead": ours,
        "torchattacks": lambda: torchattack(images, labels),
        "foolbox": lambda: foolbox_pgd(fmodel, images, labels, epsilons=EPS)[1],
    }
    seconds: dict[str, list[float]] = {name: [] for name in libraries}
    accuracy = {}
    with frozen(model):
        for _ in range(RUNS):
            for name, attack in libraries.items():
                started = time.perf_counter()
                adversarial = attack()
                seconds[name].append(time.perf_counter() - started)
                with torch.no_grad():
                    accuracy[name] = float(is_right(model(adversarial), labels).double().mean())
    return [
        {"library": name, "robust_accuracy": accuracy[name], "seconds": statistics.median(seconds[name])}
        for name in libraries
    ]


if __name__ == "__main__":
    main()
