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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import torchattacks
from torch import Tensor, nn

from bench import peers  # before adv-lib, for which it stands in a module
from bench.attacks import CLASSES, their_row
from bench.machine import described
from bench.options import among
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


@dataclass(frozen=True)
class Case:
    """An attack of ours and the same one by others, run once for each of ``seeds``; figures are means over them.

    ``precisions``: of our gradients; one of them where there are none, as in Square.
    """

    spec: dict[str, Any]
    theirs: Callable[[int], dict[str, peers.Attack]]
    seeds: tuple[int, ...] = (0,)
    precisions: tuple[str, ...] = ("float32", "auto")


def square_peers(seed: int) -> dict[str, peers.Attack]:
    """Square by torchattacks as it is, its windows never reaching the last row and column, and with them reaching."""

    def square(model: nn.Module, *, everywhere: bool) -> torchattacks.Square:
        attack = torchattacks.Square(model, eps=EPS, n_queries=QUERIES, seed=seed)
        if everywhere:
            attack.random_int = lambda low=0, high=1, shape=(1,): (low + (high + 1 - low) * torch.rand(shape)).long()
        return attack

    return {
        "torchattacks": peers.batched(lambda m, x, y: square(m, everywhere=False)(x, y)),
        "torchattacks, windows everywhere": peers.batched(lambda m, x, y: square(m, everywhere=True)(x, y)),
    }


def apgd_peers(seed: int) -> dict[str, peers.Attack]:
    def theirs(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = apgd(m, x, y, eps=EPS, norm=float("inf"), n_iter=100, loss_function="ce")
        return found

    return {
        "torchattacks": peers.batched(
            lambda m, x, y: torchattacks.APGD(m, eps=EPS, steps=100, loss="ce", seed=seed)(x, y)
        ),
        "adv-lib": peers.batched(theirs),
    }


def targeted_peers(seed: int) -> dict[str, peers.Attack]:
    return {
        "torchattacks": peers.batched(
            lambda m, x, y: torchattacks.APGDT(m, eps=EPS, steps=100, n_classes=10, seed=seed)(x, y)
        )
    }


def fab_peers(seed: int) -> dict[str, peers.Attack]:
    return {
        "torchattacks": peers.batched(
            lambda m, x, y: torchattacks.FAB(m, eps=EPS, steps=100, multi_targeted=True, n_classes=10, seed=seed)(x, y)
        )
    }


def cw_peers(seed: int) -> dict[str, peers.Attack]:
    del seed  # there is no chance in it

    def theirs(m: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = carlini_wagner_l2(
            m,
            x,
            y,
            learning_rate=CW["lr"],
            initial_const=CW["initial_const"],
            binary_search_steps=CW["binary_search_steps"],
            max_iterations=CW["steps"],
            abort_early=False,
        )
        return found

    return {"adv-lib": peers.batched(theirs)}


CASES: dict[str, Case] = {
    "fgsm": Case(
        {"name": "fgsm", "eps": EPS},
        lambda seed: {"torchattacks": peers.batched(lambda m, x, y: torchattacks.FGSM(m, eps=EPS)(x, y))},
    ),
    "apgd-ce": Case({"name": "apgd-ce", "eps": EPS}, apgd_peers),
    "apgd-dlr-targeted": Case({"name": "apgd-dlr-targeted", "eps": EPS}, targeted_peers),
    "fab-t": Case({"name": "fab-t", "eps": EPS}, fab_peers),
    "square": Case(
        {"name": "square", "eps": EPS, "queries": QUERIES}, square_peers, seeds=(0, 1), precisions=("float32",)
    ),
    "cw-l2": Case({"name": "cw-l2", **CW}, cw_peers),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", nargs="?", type=Path)
    parser.add_argument("--only", type=among(CASES), default=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    dataset = cifar10(options.archive)
    model = trained("robust", dataset)
    images, labels = test_images(dataset, IMAGES)
    for name, case in CASES.items():
        if name not in options.only:
            continue
        found = [row for seed in case.seeds for row in one_draw(name, case, model, images, labels, seed=seed)]
        rows = [mean([row for row in found if row["library"] == library]) for library in libraries(found)]
        table: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        facts = {"images": IMAGES, "spec": case.spec, "seeds": case.seeds, "machine": described("cpu")}
        table[name] = {**facts, "rows": rows}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(table, indent=2) + "\n")
        for row in rows:
            norm = "" if row["median_l2"] is None else f"   median L2 {row['median_l2']:.4f}"
            print(
                f"{name:<18} {row['library']:<33} robust {row['robust_accuracy']:.4f}   success "
                f"{row['success_rate']:.4f}{norm}   {row['seconds']:.0f} s",
                flush=True,
            )


def one_draw(
    name: str, case: Case, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int
) -> list[dict[str, Any]]:
    """A row for each precision of ours and each peer."""
    rows = [ours(model, images, labels, case.spec, precision=precision, seed=seed) for precision in case.precisions]
    with frozen(model):
        for library, attack in case.theirs(seed).items():
            began = time.perf_counter()
            found = attack(model, images, labels)
            row = their_row(model, images, labels, inside(found, images, name))
            rows.append({"library": library, **row, "seconds": time.perf_counter() - began})
    return rows


def libraries(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["library"] for row in rows))


def mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows of one library, one for each seed, as one."""
    sizes = [row["median_l2"] for row in rows if row["median_l2"] is not None]
    return {
        "library": rows[0]["library"],
        **{key: fmean(row[key] for row in rows) for key in ("robust_accuracy", "success_rate", "seconds")},
        "median_l2": fmean(sizes) if sizes else None,
        "robust_accuracies": [row["robust_accuracy"] for row in rows],
    }


def ours(
    model: nn.Module, images: Tensor, labels: Tensor, spec: dict[str, Any], *, precision: str, seed: int
) -> dict[str, Any]:
    asked = {"attacks": [spec], "examples": 0, "sanity_checks": False, "precision": precision, "seed": seed}
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
