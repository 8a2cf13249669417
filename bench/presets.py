"""What the presets cost: updates timed on this machine, and for the paper's settings an estimate for GPUs.

    python -m bench.presets [cifar10.zip] [--batch 64]

Times four updates of every method by the preset ``small``, as it trains on all images of the archive.

Runs two updates of C-LEAD by each ``paper-resnet`` preset, on a smaller batch than its 512 and otherwise as it is,
times the second, and counts its floating-point operations (matrix products and convolutions, by torch's own counter).
The estimate for a GPU is those operations over its dense bfloat16 peak, taken at a share of 30 %: an assumption, not a
measurement. Writes ``bench/results/presets.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from app.services.datasets import DatasetInfo
from app.services.presets import ProtocolParams, training_body
from app.services.recipes import Preset
from bench.training import seconds_per_update
from bench.victims import cifar10, described
from models.data import Dataset
from models.device_memory import peak_memory
from models.methods.spec import METHODS

RESULTS = Path(__file__).parent / "results" / "presets.json"
PRESETS: tuple[Preset, ...] = ("paper-resnet18", "paper-resnet34", "paper-resnet50")
PEAKS = {"A100": 312e12, "H100": 989e12}
"""Dense bfloat16 operations a second, from NVIDIA's data sheets (SXM)."""
SHARE = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", nargs="?", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    chosen = parser.parse_args()
    dataset = cifar10(chosen.archive)
    info = described(dataset)
    small = [_small_row(method, dataset, info) for method in METHODS]
    paper = [_paper_row(preset, dataset, info, batch=chosen.batch) for preset in PRESETS]
    report: dict[str, Any] = {
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "batch": chosen.batch,
        "share_of_peak_assumed": SHARE,
        "small": small,
        "paper": paper,
    }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")


def _body(preset: Preset, method: str, info: DatasetInfo) -> dict[str, Any]:
    asked = {"preset": preset, "dataset": {"name": "cifar10"}, "methods": [method]}
    return training_body(ProtocolParams.model_validate(asked), info, method=method)


def _small_row(method: str, dataset: Dataset, info: DatasetInfo) -> dict[str, Any]:
    body = _body("small", method, info)
    seconds = seconds_per_update(body, dataset)
    updates = body["epochs"] * (len(dataset.train) // body["batch_size"])
    row: dict[str, Any] = {
        "method": method,
        "epochs": body["epochs"],
        "batch_size": body["batch_size"],
        "seconds_per_update": seconds,
        "minutes_here": seconds * updates / 60,
    }
    passes = f"{row['epochs']} × {row['batch_size']}"
    print(f"| `{method}` | {passes} | {1000 * seconds:.0f} ms | {row['minutes_here']:.0f} |", flush=True)
    return row


def _paper_row(preset: Preset, dataset: Dataset, info: DatasetInfo, *, batch: int) -> dict[str, Any]:
    body = _body(preset, "clead", info)
    params = METHODS["clead"].params.model_validate(body)
    fewer = body | {"batch_size": batch}
    with FlopCounterMode(display=False) as counter:
        seconds_per_update(fewer, dataset, updates=1)
    counted = counter.get_total_flops() / 2 / batch  # of two updates
    seconds = seconds_per_update(fewer, dataset, updates=1) / batch
    images = params.epochs * (len(dataset.train) // params.batch_size) * params.batch_size
    row: dict[str, Any] = {
        "preset": preset,
        "epochs": params.epochs,
        "batch_size": params.batch_size,
        "operations_per_image": counted,
        "seconds_per_image_here": seconds,
        "days_here": seconds * images / 86400,
        "process_memory_mib": peak_memory() / 2**20,
        "hours_estimated": {name: counted * images / peak / SHARE / 3600 for name, peak in PEAKS.items()},
    }
    hours = " | ".join(f"{value:.1f} h" for value in row["hours_estimated"].values())
    print(
        f"| `{preset}` | {params.epochs} × {params.batch_size} | {counted / 1e9:.0f} GFLOP "
        f"| {1000 * seconds:.0f} ms | {row['days_here']:.0f} days | {hours} |",
        flush=True,
    )
    return row


if __name__ == "__main__":
    main()
