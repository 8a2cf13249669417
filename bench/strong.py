"""Attacks the models of a finished demo harder than the demo did: do its numbers hold?

    python -m bench.strong .clead/demo

PGD and CW-Linf with 200 steps and 10 restarts, and torchattacks' Square (5,000 queries, no gradients) as a check from
outside, on the images that the demo used. Prints the demo's PGD-20 beside the worst of these and writes
``bench/results/strong.json``. An image counts as robust if it stands every attack.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torchattacks
from torch import Tensor

from app.records.session import Database
from app.services import models as registry
from app.settings import Settings
from app.storage import Storage
from models import data
from models.attacks.noise import PerImageNoise, derive_seed
from models.attacks.objectives import is_right
from models.attacks.spec import ATTACKS
from models.attacks.victim import Victim
from models.checkpoints import load_model
from models.networks import ImageModel, frozen
from models.specs import ModelCard

STRONG = {"steps": 200, "restarts": 10}
QUERIES = 5000
RESULTS = Path(__file__).parent / "results" / "strong.json"


def main(home: Path) -> None:
    report = json.loads((home / "report.json").read_text())
    eps = report["protocol"]["eps"]
    digits = data.load("digits", root=Path(tempfile.gettempdir()))
    images, labels = digits.test.pixels(), digits.test.labels
    rows = []
    print(f"{len(images)} test images, Linf, eps {eps}; robust accuracy")
    for row in report["rows"]:
        found = attack(registered(home / "service", row["model"]), images, labels, eps=eps)
        rows.append({"method": row["method"], "model": row["model"], "pgd-20": row["pgd"], **found})
        print(
            "  "
            + "  ".join(f"{key} {value:.3f}" if isinstance(value, float) else value for key, value in rows[-1].items())
        )
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


def attack(model: ImageModel, images: Tensor, labels: Tensor, *, eps: float) -> dict[str, float]:
    """Robust accuracy under each attack and under all of them together."""
    square = torchattacks.Square(model, norm="Linf", eps=eps, n_queries=QUERIES)
    stands: dict[str, Tensor] = {}
    with frozen(model):
        right = _right(model, images, labels)
        for name in ("pgd", "cw-linf"):
            params: Any = ATTACKS[name].params.model_validate({"eps": eps, "step_size": eps / 10, **STRONG})
            seeds = torch.tensor([derive_seed(1, name, index) for index in range(len(images))])
            found = ATTACKS[name].run(Victim(model), images, labels, params, noise=PerImageNoise(seeds))
            stands[f"{name}-200x10"] = right & _right(model, found, labels)
        stands["square"] = right & _right(model, square(images, labels), labels)
    stands["worst"] = torch.stack(list(stands.values())).all(dim=0)
    return {name: float(left.double().mean()) for name, left in stands.items()}


def _right(model: ImageModel, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return is_right(model(images), labels)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".clead/demo"))
