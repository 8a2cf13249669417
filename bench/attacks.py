"""Evaluations of CIFAR-10 models by torchattacks, foolbox, ART, adv-lib and us, in one run.

    python -m bench.attacks [cifar10.zip] [--only pgd20-robust,pgd20-standard,cw-l2,autoattack,fgsm,memory] [--runs 5]

Trains a standard and a PGD-2-trained ResNet-18 of width 16 first (minutes, then kept in the temporary folder). The
libraries alternate in rounds; seconds are the median over them. Accuracies and norms are judged by us in float32 for
everybody, over all images: an image counts as robust if it is right before and after. Threads: OMP_NUM_THREADS.
Writes ``bench/results/attacks.json``, where what was not asked for stays as it was, with the machine that it was
measured on: its own ``machine``, or in older results the file's. The last line is ``ratios: …``, times faster than the
fastest peer that runs the same attack; ``--only none`` measures nothing and prints it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from bench import peers
from bench.machine import described
from bench.options import among
from bench.victims import EPS, cifar10, test_images, trained
from models.attacks.objectives import cross_entropy, is_right
from models.attacks.victim import Tuning, Victim
from models.data.images import ImageSet
from models.evaluation import evaluate
from models.evaluation_spec import EvaluationParams
from models.networks import ImageModel, frozen
from models.precision import resolve_precision
from models.progress import Silent

RESULTS = Path(__file__).parent / "results" / "attacks.json"
CLASSES = tuple(str(index) for index in range(10))
CW = {"steps": 50, "binary_search_steps": 4, "lr": 0.01, "initial_const": 1.0}


@dataclass(frozen=True)
class Match:
    """One line of the comparison: an attack of ours, and the same one by the peers."""

    name: str
    model: str
    images: int
    ours: dict[str, Any]
    peers: Callable[[], dict[str, peers.Attack]]
    unlike: tuple[str, ...] = ()  # peers whose attack is another one: run once and shown, but no measure of speed
    checks: bool = True  # whether to time our sanity checks, too, which add the same to every attack


def matches() -> list[Match]:
    pgd = {"name": "pgd", "eps": EPS, "steps": 20, "step_size": EPS / 4}
    auto = {"name": "autoattack", "eps": EPS}
    cw = {"name": "cw-l2", **CW}

    def their_pgd() -> dict[str, peers.Attack]:
        return peers.pgd(EPS, steps=20, step_size=EPS / 4)

    def their_cw() -> dict[str, peers.Attack]:
        return peers.cw_l2(
            steps=CW["steps"], searches=CW["binary_search_steps"], lr=CW["lr"], const=CW["initial_const"]
        )

    return [
        Match("pgd20-robust", "robust", 500, pgd, their_pgd),
        Match("pgd20-standard", "standard", 500, pgd, their_pgd),
        Match("cw-l2", "robust", 100, cw, their_cw, unlike=("torchattacks", "art")),
        Match("autoattack", "robust", 100, auto, lambda: peers.autoattack(EPS, steps=100, queries=5000), checks=False),
        Match("fgsm", "robust", 500, {"name": "fgsm", "eps": EPS}, lambda: peers.fgsm(EPS)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("archive", nargs="?", type=Path)
    parts = [*(match.name for match in matches()), "memory"]
    parser.add_argument("--only", type=among([*parts, "none"]), default=parts)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    measure([match for match in matches() if match.name in options.only], options)
    if "memory" in options.only:
        keep("memory", {**peak_memory(options.archive), "machine": described("cpu")})
    tables = keep("tables", {})["tables"]
    ratios = {match.name: ratio(match, tables[match.name]["rows"]) for match in matches() if match.name in tables}
    keep("ratios", ratios)
    print("ratios: " + " ".join(f"{name}={value:.1f}" for name, value in ratios.items()))


def measure(asked: list[Match], options: argparse.Namespace) -> None:
    """A table for each."""
    if not asked:
        return
    dataset = cifar10(options.archive)
    models = {name: trained(name, dataset) for name in ("standard", "robust")}
    for match in asked:
        images, labels = test_images(dataset, match.images)
        rows = compare(match, models[match.model], images, labels, runs=options.runs)
        show(match, rows)
        facts = {"model": match.model, "images": match.images, "spec": match.ours, "unlike": match.unlike}
        keep("tables", {match.name: {**facts, "machine": described("cpu"), "rows": rows}})


def keep(part: str, found: dict[str, Any]) -> dict[str, Any]:
    """Everything in the file of results once ``found`` is in its ``part``."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[part] = {**results.get(part, {}), **found}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    return results


def compare(match: Match, model: ImageModel, images: Tensor, labels: Tensor, *, runs: int) -> list[dict[str, Any]]:
    """One row a library."""
    theirs = match.peers()
    mine = {"clead": False, "clead+checks": True} if match.checks else {"clead": False}
    seconds: dict[str, list[float]] = {name: [] for name in (*mine, *theirs)}
    rows: dict[str, dict[str, Any]] = {}
    with frozen(model):
        for run in range(runs):
            for name, checks in mine.items():
                began = time.perf_counter()
                result = ours(model, images, labels, match.ours, checks=checks)
                seconds[name].append(time.perf_counter() - began)
                rows[name] = our_row(result, model, images)
            for name, attack in theirs.items():
                if run and name in match.unlike:
                    continue
                began = time.perf_counter()
                found = attack(model, images, labels)
                seconds[name].append(time.perf_counter() - began)
                rows[name] = their_row(model, images, labels, found)
    return [
        {"library": name, **row, "seconds": statistics.median(seconds[name]), "runs": seconds[name]}
        for name, row in rows.items()
    ]


def ours(model: nn.Module, images: Tensor, labels: Tensor, attack: dict[str, Any], *, checks: bool) -> dict[str, Any]:
    """Our whole evaluation: clean accuracy, attack, verdicts, checks of ball and box, report.

    ``checks``: with the search for masked gradients and the like that is on by default and that no peer does.
    """
    asked = {"attacks": [attack], "examples": 0, "batch_size": 100, "sanity_checks": checks}
    params = EvaluationParams.model_validate({"model": "bench@1", "dataset": {"name": "cifar10"}, **asked})
    data = ImageSet((images * 255).round().byte(), labels, CLASSES)
    return evaluate(model, data, params, reporter=Silent(), device="cpu").result


def our_row(result: dict[str, Any], model: nn.Module, images: Tensor) -> dict[str, Any]:
    row, cost = result["attacks"][0], result["cost"]
    share = step_seconds(model, images[:100], cost) / cost["seconds"]
    return {
        "robust_accuracy": row["robust_accuracy"],
        "success_rate": row["success_rate"],
        "median_l2": row["median_l2"],
        "share_in_model": share,
        **cost,
    }


def step_seconds(model: nn.Module, images: Tensor, cost: dict[str, Any]) -> float:
    """Seconds that the counted forwards and gradients take in full batches when nothing else is done."""
    tuning = Tuning(folded=True, precision=resolve_precision("auto", torch.device("cpu")))
    victim = Victim(model, tuning=tuning, batch_size=len(images))
    labels = torch.zeros(len(images), dtype=torch.int64)

    def median(call: Callable[[], object]) -> float:
        call()
        times = []
        for _ in range(7):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        return statistics.median(times) / len(images)

    forward = median(lambda: victim.logits(images))
    gradient = median(lambda: victim.gradient(images, cross_entropy, labels))
    return forward * float(cost["forward_images"]) + gradient * float(cost["gradient_images"])


@torch.no_grad()
def their_row(model: nn.Module, images: Tensor, labels: Tensor, found: Tensor) -> dict[str, Any]:
    before, after = is_right(model(images), labels), is_right(model(found), labels)
    broken = before & ~after
    norms = (found - images).flatten(1).norm(dim=1)[broken]
    return {
        "robust_accuracy": (before & after).double().mean().item(),
        "success_rate": broken.sum().item() / max(int(before.sum()), 1),
        "median_l2": norms.median().item() if len(norms) else None,
    }


def ratio(match: Match, rows: list[dict[str, Any]]) -> float:
    """How many times faster than the fastest peer: in each round by that round's fastest, the median over the rounds.

    What runs within minutes of each other meets the same load; seconds of rounds half an hour apart do not compare.
    """
    runs: dict[str, list[float]] = {row["library"]: row["runs"] for row in rows}
    peers_runs = [taken for name, taken in runs.items() if not name.startswith("clead") and name not in match.unlike]
    rounds = zip(runs["clead"], zip(*peers_runs, strict=True), strict=True)
    return statistics.median(min(theirs) / mine for mine, theirs in rounds)


def show(match: Match, rows: list[dict[str, Any]]) -> None:
    print(f"{match.name}: {match.model} model, {match.images} images, {torch.get_num_threads()} thread(s)")
    for row in rows:
        norm = f"   median L2 {row['median_l2']:.4f}" if match.name == "cw-l2" and row["median_l2"] else ""
        share = f"   {row['share_in_model']:.0%} of it in the model" if "share_in_model" in row else ""
        print(
            f"  {row['library']:<13} robust {row['robust_accuracy']:.3f}   {row['seconds']:8.2f} s{norm}{share}",
            flush=True,
        )


def peak_memory(archive: Path | None) -> dict[str, dict[str, float]]:
    """MiB that PGD-2 on so many images takes at its highest, beyond data and model; each in a process of its own.

    With ``glibc's defaults``, which a job's process does not have, and with what the libraries below keep for later
    held small: the C library's freed memory, and oneDNN's kernels, one for each layer and size of batch that it has
    met, up to 1,024.
    """
    settings: dict[str, dict[str, str]] = {
        "glibc's defaults": {},
        "small caches": {"MALLOC_MMAP_THRESHOLD_": "131072", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"},
    }
    found: dict[str, dict[str, float]] = {}
    for name, environment in settings.items():
        found[name] = {}
        for count in (1_000, 3_000, 10_000):
            with patch.dict(os.environ, environment), ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                found[name][str(count)] = pool.submit(memory_of, archive, count).result()
        print(f"peak memory, {name}: " + ", ".join(f"{n} images {mib:.0f} MiB" for n, mib in found[name].items()))
    return found


def memory_of(archive: Path | None, count: int) -> float:
    torch.set_num_threads(1)
    dataset = cifar10(archive)
    images = dataset.test.take(torch.arange(min(count, len(dataset.test))))
    model, spec = trained("robust", dataset), {"name": "pgd", "eps": EPS, "steps": 2}
    asked = {"model": "bench@1", "dataset": {"name": "cifar10"}, "attacks": [spec]}
    params = EvaluationParams.model_validate(asked)
    evaluate(model, images.take(torch.arange(100)), params, reporter=Silent(), device="cpu")  # libraries' own buffers
    done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        before = resident()
        highest = pool.submit(watch_memory, done)
        evaluate(model, images, params, reporter=Silent(), device="cpu")
        done.set()
        return (highest.result() - before) / 2**20


def watch_memory(done: threading.Event) -> float:
    """Highest resident memory in bytes, looked at a hundred times a second."""
    highest = resident()
    while not done.wait(0.01):
        highest = max(highest, resident())
    return highest


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * resource.getpagesize())


if __name__ == "__main__":
    main()
