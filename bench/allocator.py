"""What it brings that a job's process keeps the memory it frees: CPU seconds and page faults, with and without.

    python -m bench.allocator [cifar10.zip]

PGD-20 on 300 images and an epoch of PGD adversarial training on 1,280, one thread, each time in a process of its own,
alternated, median of 5. Writes ``bench/results/allocator.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from bench.attacks import ours
from bench.victims import COMMON, EPS, RECIPES, cifar10, test_images, trained
from models.methods.spec import METHODS
from models.progress import Silent
from models.training import train
from worker.supervisor import KEEP_FREED_MEMORY

RESULTS = Path(__file__).parent / "results" / "allocator.json"
RUNS = 5
PGD = {"name": "pgd", "eps": EPS, "steps": 20, "step_size": EPS / 4}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", nargs="?", type=Path)
    archive = parser.parse_args().archive
    trained("robust", cifar10(archive))  # here, so that no measured process has to
    settings: dict[str, dict[str, str]] = {"as glibc has it": {}, "freed memory kept": KEEP_FREED_MEMORY}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in settings}
    for _ in range(RUNS):
        for name, environment in settings.items():
            with patch.dict(os.environ, environment), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                found[name].append(pool.submit(measure, archive).result())
    rows = {
        name: {key: statistics.median(row[key] for row in taken) for key in taken[0]} for name, taken in found.items()
    }
    for name, row in rows.items():
        print(f"{name:<18} " + "   ".join(f"{key} {value:.1f}" for key, value in row.items()))
    RESULTS.write_text(json.dumps({"torch": torch.__version__, "rows": rows, "runs": found}, indent=2) + "\n")


def measure(archive: Path | None) -> dict[str, float]:
    torch.set_num_threads(1)
    dataset = cifar10(archive)
    model = trained("robust", dataset)
    images, labels = test_images(dataset, 300)
    recipe: dict[str, Any] = {**COMMON, **RECIPES["robust"], "epochs": 1}
    params = METHODS["pgd-at"].params.model_validate(recipe | {"dataset": {"name": "cifar10", "subset": 1280}})

    def evaluation() -> None:
        ours(model, images, labels, PGD, checks=False)

    def training() -> None:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            train(params, dataset, init=None, base=None, workdir=place, resume=None, reporter=Silent(), device="cpu")

    evaluation()  # libraries' own buffers and kernels
    return {**cost("evaluation", evaluation), **cost("training", training), "peak MiB": peak()}


def cost(name: str, call: Callable[[], None]) -> dict[str, float]:
    faults, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
    call()
    seconds = time.process_time() - began
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return {f"{name} seconds": seconds, f"{name} thousand page faults": faults / 1000}


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
