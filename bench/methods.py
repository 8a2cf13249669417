"""Every method of training at equal time, by jobs of the service: the table of docs/results.md.

    python -m bench.methods [cifar10.zip] [--home .clead/methods] [--preset quick] [--seconds 180] [--images 10000]
        [--seeds 0] [--fractions 1 0.1 0.01] [--test-images 1000] [--autoattack-images 200] [--only clead pgd-at]
        [--device cuda]

Starts the service with a worker of one thread for each core, uploads the archive (``train|test/<class>/*``; without
one, scikit-learn's digits are taken), and measures an update of every method by itself. Then each way to a classifier
gets the number of epochs that is nearest to ``--seconds`` of training: pretraining, a teacher, and the classifier whose
predictions are labels all count; the linear probe is told beside them. The last weights are taken, whatever the preset
says. Jobs that an earlier run of this command finished are not repeated.

Time is one CPU core's, also where the workers train on another ``--device``, all at once: which trains sooner, and the
same epochs. ``costs-….json`` in the home holds the updates' seconds and can be copied there from another machine.
Writes ``bench/results/methods-<data set>.json``, with the preset's name unless that is ``quick``, and the table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from app.client import Client
from app.demo.run import service
from app.services.compare import attack_names
from app.services.datasets import DatasetInfo
from app.services.presets import ProtocolParams, perturbation_size, probe_body, standard_attacks
from bench.machine import described as machine
from bench.methods_plan import MOST_EPOCHS, WAYS, Stage, stage_body
from bench.methods_table import check_images, read, rewrite, with_earlier_rows
from bench.training import seconds_per_update
from bench.victims import CACHE, cifar10, described
from models.attacks.noise import derive_seed
from models.data import Dataset, load
from models.methods.spec import METHODS


@dataclass(frozen=True)
class Run:
    """One row of the table."""

    way: str
    fraction: float
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", nargs="?", type=Path)
    parser.add_argument("--home", type=Path, default=Path(".clead/methods"))
    parser.add_argument("--preset", default="quick", choices=["quick", "small"])
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--fractions", type=float, nargs="+", default=[1.0, 0.1, 0.01])
    parser.add_argument("--test-images", type=int, default=1000)
    parser.add_argument("--autoattack-images", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    chosen.home.mkdir(parents=True, exist_ok=True)
    dataset = cifar10(chosen.archive) if chosen.archive else load("digits", root=CACHE)
    chosen.dataset = "cifar10-jpg" if chosen.archive else "digits"
    chosen.images = min(chosen.images, len(dataset.train))
    try:
        check_images(read(chosen.dataset, chosen.preset), chosen.images)
    except ValueError as error:
        parser.error(str(error))
    info = described(dataset, name=chosen.dataset)
    costs = _costs(chosen, dataset, info)
    runs = [
        Run(way, fraction, seed)
        for seed in chosen.seeds
        for fraction in chosen.fractions
        for way in chosen.only
        if fraction < 1 or not WAYS[way].unlabelled
    ]
    with _workers(chosen.home, device=chosen.device) as url, Client(url, timeout=600) as client:
        client.wait_until_ready(seconds=90)
        if chosen.dataset not in {known["name"] for known in client.get("/datasets")["items"]}:
            client.upload(chosen.dataset, chosen.archive)
        jobs = Jobs(client, chosen, info, costs)
        rows: list[dict[str, Any]] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for done in as_completed([pool.submit(jobs.row, run) for run in runs]):
                rows.append(done.result())
                _write(rows, chosen, costs)
            for _ in pool.map(jobs.attack_further, rows if chosen.autoattack_images else []):
                _write(rows, chosen, costs)
    print(_write(rows, chosen, costs))


def _write(rows: list[dict[str, Any]], chosen: argparse.Namespace, costs: dict[str, float]) -> str:
    """What is known so far; its table."""
    report = {
        "options": {name: value for name, value in vars(chosen).items() if name not in ("archive", "home")},
        "seconds_per_update": costs,
        "rows": rows,
    }
    return rewrite(chosen.dataset, chosen.preset, lambda earlier: with_earlier_rows(report, earlier))


def _costs(chosen: argparse.Namespace, dataset: Dataset, info: DatasetInfo) -> dict[str, float]:
    """Seconds of an update of every stage, one after the other with one thread; kept in the home."""
    kept = chosen.home / f"costs-{chosen.dataset}-{chosen.preset}.json"
    costs: dict[str, float] = json.loads(kept.read_text()) if kept.exists() else {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for stage in (stage for way in chosen.only for stage in WAYS[way].stages):
        if stage.name not in costs:
            body = stage_body(stage, info, preset=chosen.preset, images=chosen.images, fraction=1.0, epochs=20, seed=0)
            costs[stage.name] = seconds_per_update(body, dataset)
            print(f"an update of {stage.name}: {costs[stage.name]:.3f} s", flush=True)
            kept.write_text(json.dumps(costs))
    torch.set_num_threads(threads)
    return costs


@contextmanager
def _workers(home: Path, *, device: str) -> Iterator[str]:
    """The service's address, with a worker of one thread for each core, all on ``device``."""
    os.environ |= {"CLEAD_THREADS": "1", "CLEAD_DEVICE": device}
    environment = os.environ | {"CLEAD_HOME": str((home / "service").absolute())}
    with service(home) as url, (home / "workers.log").open("w") as log:
        command = [sys.executable, "-m", "worker.main"]
        others = [
            subprocess.Popen(command, env=environment, stdout=log, stderr=log) for _ in range(1, os.cpu_count() or 1)
        ]
        try:
            yield url
        finally:
            for other in others:
                other.terminate()
            for other in others:
                other.wait()


class Jobs:
    """Submits what a row needs, and waits for it. A job that was submitted before is the same one."""

    def __init__(self, client: Client, chosen: argparse.Namespace, info: DatasetInfo, costs: dict[str, float]) -> None:
        self._client = client
        self._chosen = chosen
        self._info = info
        self._costs = costs

    def row(self, run: Run) -> dict[str, Any]:
        """What became of it: accuracies with their intervals, and seconds of training and of the probe."""
        chosen, way = self._chosen, WAYS[run.way]
        models: list[str] = []
        precisions: list[str] = []
        seconds = probe_seconds = 0.0
        for number, stage in enumerate(way.stages):
            used = {field: models[position] for field, position in stage.uses.items()}
            job = self._trained(run, stage, number, used)
            seconds += job["result"]["seconds"]
            precisions.append(job["result"]["precision"])
            if stage.probed:
                name = self._name(run, f"probe-{number}")
                body = probe_body(self._protocol(run), self._info, model=job["result"]["model"])
                job = self._done("/jobs/probe", body | {"register_as": name})
                probe_seconds += job["result"]["seconds"]
            models.append(job["result"]["model"])
        row = {**vars(run), "budget": chosen.seconds, "model": models[-1]}
        row |= {"training_seconds": seconds, "probe_seconds": probe_seconds}
        row |= {"on": machine(chosen.device)["processor"], "precision": "/".join(dict.fromkeys(precisions))}
        self._attack(row, chosen.test_images, standard_attacks(self._info.image_shape))
        return row

    def attack_further(self, row: dict[str, Any]) -> None:
        """By AutoAttack, which takes most of the time and therefore comes last."""
        eps = perturbation_size(self._info.image_shape)
        self._attack(row, self._chosen.autoattack_images, [{"name": "autoattack", "eps": eps}])

    def _attack(self, row: dict[str, Any], images: int, attacks: list[dict[str, Any]]) -> None:
        result = self._attacked(row["model"], images, attacks)
        images = result["dataset"]["size"]
        clean = {"images": images, "accuracy": result["clean_accuracy"], "ci95": result["clean_ci95"]}
        row.setdefault("clean", clean)
        for name, attack in zip(attack_names(result["attacks"]), result["attacks"], strict=True):
            found = {"robust_accuracy": attack["robust_accuracy"], "ci95": attack["ci95"]}
            row.setdefault("attacks", {})[name] = {"images": images, **found}
        print(json.dumps(row), flush=True)

    def _trained(self, run: Run, stage: Stage, number: int, used: dict[str, str]) -> dict[str, Any]:
        fraction = run.fraction if stage.uses_labels else 1.0
        epochs = 1
        for _ in range(2):  # the first tells how many images are trained on, and so how many updates an epoch has
            body = stage_body(
                stage,
                self._info,
                preset=self._chosen.preset,
                images=self._chosen.images,
                fraction=fraction,
                epochs=epochs,
                seed=run.seed,
            )
            seen = self._chosen.images * (fraction if METHODS[stage.method].relabel is None else 1.0)
            updates = max(1, int(seen) // body["batch_size"])
            budget = stage.share * self._chosen.seconds
            epochs = min(MOST_EPOCHS, max(1, round(budget / self._costs[stage.name] / updates)))
        name = f"{stage.name}-{number}-{run.way}" if used else stage.name
        body |= used | {"register_as": self._name(Run(name, fraction, run.seed), f"{stage.share:g}")}
        return self._done(f"/jobs/{stage.kind}", body)

    def _protocol(self, run: Run) -> ProtocolParams:
        data = {"name": self._info.name, "subset": self._chosen.images, "labels_fraction": run.fraction}
        return ProtocolParams.model_validate({"preset": self._chosen.preset, "dataset": data, "seed": run.seed})

    def _attacked(self, model: str, images: int, attacks: list[dict[str, Any]]) -> dict[str, Any]:
        images = min(images, self._info.test_size)
        dataset = {"name": self._info.name, "split": "test", "subset": images}
        body = {"model": model, "dataset": dataset, "attacks": attacks, "examples": 0}
        answer: dict[str, Any] = self._done("/evaluate", body)["result"]
        return answer

    def _name(self, run: Run, part: str) -> str:
        """A model's: letters, digits, dots and dashes; of a long way its beginning and a number of its own."""
        way = run.way if len(run.way) <= 60 else f"{run.way[:50]}-{derive_seed(run.way) % 10**9}"
        text = f"{way}-{part}-{run.fraction:g}-s{run.seed}-t{self._chosen.seconds:g}"
        return "".join(one if (one.isascii() and one.isalnum()) or one in ".-" else "-" for one in text)

    def _done(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The job once it has succeeded; the one that was submitted before with this very body, if there is one."""
        key = f"methods-{derive_seed(path, json.dumps(body, sort_keys=True))}"
        job_id = self._client.post(path, body, idempotency_key=key)["id"]
        job: dict[str, Any] = list(self._client.follow(job_id, interval=1.0))[-1]
        if job["status"] != "succeeded":
            raise RuntimeError(f"job {job_id} {job['status']}: {job['error']}")
        return job


if __name__ == "__main__":
    main()
