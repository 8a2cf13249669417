"""One evaluation by one worker and by two: how much sooner do two end, and do they say the same?

    python -m bench.shards [data.zip] [--images 2000] [--steps 40] [--shard-size 250]

Trains a small classifier first, then attacks it, with real workers of one thread each on a service in a temporary
folder. Without an archive (``train|test/<class>/*``, or an npz) the data are scikit-learn's digits, enlarged to 32×32
and shifted. Seconds are between the two times that the job itself tells: submitted and finished. Writes
``bench/results/shards.json``; its last line is ``ratio: …``, two workers' time in that of one. Needs two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from app.queue import create_celery, publish
from app.records import FINAL, Job
from app.records.session import Database
from app.services import datasets, jobs, specs, workers
from app.settings import Settings
from app.storage import Storage
from bench.signals import end_in_order_at_sigterm
from migrations import upgrade
from models.data import check_upload

RESULTS = Path(__file__).parent / "results" / "shards.json"
SHIFTS = ((0, 0), (2, 1), (-1, 3))
TRAIN: dict[str, Any] = {
    "method": "pgd-at",
    "dataset": {"name": "bench", "subset": 2400},
    "backbone": {"name": "resnet18", "width": 16, "blocks": [1, 1, 1, 1]},
    "attack": {"name": "pgd", "eps": "8/255", "steps": 2, "step_size": "4/255"},
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    "augmentation": {"crop_padding": 2, "flip": False},
    "batch_size": 64,
    "epochs": 6,
    "register_as": "victim",
}


class Service:
    """The service's database, broker and storage in one folder, without its API."""

    def __init__(self, home: Path) -> None:
        self._settings = Settings(home=home, threads=1, device="cpu")
        upgrade(self._settings)
        self._database = Database(self._settings.database_url)
        self._celery = create_celery(self._settings)

    def upload(self, path: Path) -> None:
        """Make the archive the data set ``bench``."""
        summary = check_upload(path)
        artifact = Storage(self._settings.storage_url).put_file(path)
        with self._database.writing() as session:
            datasets.register(
                session,
                name="bench",
                format=summary.format,
                sha256=artifact.sha256,
                size=artifact.size,
                classes=list(summary.classes),
                image_shape=summary.image_shape,
                train_size=summary.train_size,
                test_size=summary.test_size,
                mean=list(summary.mean),
                std=list(summary.std),
            )

    def run(self, kind: str, body: Mapping[str, Any]) -> Job:
        """The finished job; how far it is, is shown while it runs."""
        with self._database.writing() as session:
            spec, register_as, _ = specs.validate(session, kind=kind, body=body)
            job = jobs.submit(session, kind=kind, spec=spec, register_as=register_as)
            waiting = [(found.id, str(found.queue)) for found in jobs.runnable(session, job)]
        for job_id, queue in waiting:
            publish(self._celery, job_id, queue=queue)
        while job.status not in FINAL:
            time.sleep(1)
            with self._database.session() as session:
                job = jobs.get(session, job.id)
                progress = jobs.job_view(session, job)["progress"] or {}
            print(f"\r{kind}: {progress.get('done', 0)}/{progress.get('total', '?')} ", end="", flush=True)
        print()
        if job.status != "succeeded":
            sys.exit(f"the job {job.status}: {job.error}")
        return job

    @contextmanager
    def workers(self, count: int) -> Iterator[None]:
        """So many workers for as long as the block lasts, which begins once they have signed on."""
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(self._worker())
            while len(self._alive()) < count:
                time.sleep(0.2)
            yield

    def _alive(self) -> list[Any]:
        with self._database.session() as session:
            return workers.seen_lately(session, seconds=self._settings.lease_seconds)

    @contextmanager
    def _worker(self) -> Iterator[None]:
        values = {f"CLEAD_{name.upper()}": str(value) for name, value in self._settings.model_dump(mode="json").items()}
        with (self._settings.home / "log").open("a") as log:
            environment = os.environ | values | {"OMP_NUM_THREADS": "1"}
            process = subprocess.Popen([sys.executable, "-m", "worker.main"], stdout=log, stderr=log, env=environment)
            try:
                yield
            finally:
                process.terminate()  # it signs off
                process.wait()


def main(archive: Path | None, *, images: int, steps: int, shard_size: int) -> None:
    ball = {"eps": "4/255", "steps": steps, "step_size": "1/255"}
    body = {
        "model": "victim",
        "dataset": {"name": "bench", "subset": images},
        "attacks": [{"name": "pgd", **ball}, {"name": "cw-linf", **ball}],
        "shard_size": shard_size,
    }
    end_in_order_at_sigterm()
    with tempfile.TemporaryDirectory(prefix="clead-bench-") as folder:
        service = Service(Path(folder) / "home")
        service.upload(archive or digits(Path(folder) / "digits.npz"))
        found = {}
        for count in (1, 2):
            with service.workers(count):
                if count == 1:
                    service.run("train", TRAIN)
                found[count] = service.run("evaluate", body)
    seconds = {count: (job.finished_at - job.created_at).total_seconds() for count, job in found.items()}
    result = found[1].result
    report = {
        "images": images,
        "attacks": body["attacks"],
        "shard_size": shard_size,
        "threads": 1,
        "seconds": {"1 worker": seconds[1], "2 workers": seconds[2]},
        "ratio": seconds[2] / seconds[1],
        "same_verdicts": verdicts(found[1].result) == verdicts(found[2].result),
        "clean_accuracy": result["clean_accuracy"],
        "robust_accuracy": {row["name"]: row["robust_accuracy"] for row in result["attacks"]},
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    print(f"ratio: {report['ratio']:.3f}")


def digits(path: Path) -> Path:
    """Digits of 32×32 pixels: 800 for training and 997 for the test, each in three places."""
    data = load_digits()
    large = np.kron((data.images * 255 / 16).round().astype(np.uint8), np.ones((1, 4, 4), dtype=np.uint8))
    arrays: dict[str, Any] = {}
    for split, part in (("train", slice(0, 800)), ("test", slice(800, None))):
        arrays[f"x_{split}"] = np.concatenate([np.roll(large[part], shift, axis=(1, 2)) for shift in SHIFTS])
        arrays[f"y_{split}"] = np.tile(data.target[part], len(SHIFTS))
    np.savez(path, **arrays)
    return path


def verdicts(value: Any) -> Any:
    """A result without its clocks and without the links to its own job."""
    gone = ("seconds", "images_per_second", "examples")
    if isinstance(value, dict):
        return {key: verdicts(item) for key, item in value.items() if key not in gone}
    return [verdicts(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", nargs="?", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--shard-size", type=int, default=250)
    options = parser.parse_args()
    main(options.archive, images=options.images, steps=options.steps, shard_size=options.shard_size)
