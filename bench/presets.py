"""What the presets cost: updates timed on this machine, on its CPU or its GPU.

    python -m bench.presets [cifar10.zip] [--batch 64] [--device cuda]

Times four updates of every method by the preset ``small``, as it trains on all images of the archive.

Runs updates of C-LEAD by each ``paper-resnet`` preset and counts their floating-point operations (matrix products and
convolutions, by torch's own counter). On a CPU one update is timed, of a smaller batch than the preset's 512; on a GPU
eight, of the whole batch, and the first preset's kernels are profiled.
Writes ``bench/results/presets.json``, or ``presets-cuda.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from app.services.datasets import DatasetInfo
from app.services.presets import ProtocolParams, training_body
from app.services.recipes import Preset
from bench.machine import described as machine
from bench.machine import on_gpu, results_file
from bench.training import busiest, seconds_per_update
from bench.victims import cifar10, described
from models.data import Dataset
from models.device_memory import peak_memory
from models.methods.spec import METHODS

PRESETS: tuple[Preset, ...] = ("paper-resnet18", "paper-resnet34", "paper-resnet50")
UPDATES_ON_GPU = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", nargs="?", type=Path)
    parser.add_argument("--batch", type=int, default=64, help="of the paper's presets on a CPU")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    dataset = cifar10(chosen.archive)
    info = described(dataset)
    report: dict[str, Any] = machine(chosen.device)
    report["small"] = [_small_row(method, dataset, info, device=chosen.device) for method in METHODS]
    if on_gpu(chosen.device):
        report["paper"] = [_paper_row_on_gpu(preset, dataset, info, device=chosen.device) for preset in PRESETS]
        report["kernels"] = busiest(_body(PRESETS[0], "clead", info), dataset, device=chosen.device)
    else:
        report["batch"] = chosen.batch
        report["paper"] = [_paper_row(preset, dataset, info, batch=chosen.batch) for preset in PRESETS]
    results_file("presets", chosen.device).write_text(json.dumps(report, indent=2) + "\n")


def _body(preset: Preset, method: str, info: DatasetInfo) -> dict[str, Any]:
    asked = {"preset": preset, "dataset": {"name": "cifar10"}, "methods": [method]}
    return training_body(ProtocolParams.model_validate(asked), info, method=method)


def _small_row(method: str, dataset: Dataset, info: DatasetInfo, *, device: str) -> dict[str, Any]:
    body = _body("small", method, info)
    seconds = seconds_per_update(body, dataset, device=device)
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


def _operations(body: dict[str, Any], dataset: Dataset, *, device: str) -> float:
    """Floating-point operations for an image of an update."""
    with FlopCounterMode(display=False) as counter:
        seconds_per_update(body, dataset, updates=1, device=device)
    return float(counter.get_total_flops() / 2 / body["batch_size"])  # of two updates


def _images(body: dict[str, Any], dataset: Dataset) -> int:
    """How many the whole training sees."""
    params = METHODS["clead"].params.model_validate(body)
    return params.epochs * (len(dataset.train) // params.batch_size) * params.batch_size


def _paper_row_on_gpu(preset: Preset, dataset: Dataset, info: DatasetInfo, *, device: str) -> dict[str, Any]:
    body = _body(preset, "clead", info)
    whole = METHODS["clead"].params.model_validate(body)
    counted = _operations(body | {"batch_size": 64}, dataset, device=device)
    torch.cuda.reset_peak_memory_stats(device)
    seconds = seconds_per_update(body, dataset, updates=UPDATES_ON_GPU, device=device)
    row: dict[str, Any] = {
        "preset": preset,
        "epochs": whole.epochs,
        "batch_size": whole.batch_size,
        "operations_per_image": counted,
        "seconds_per_update": seconds,
        "images_per_second": whole.batch_size / seconds,
        "hours": seconds / whole.batch_size * _images(body, dataset) / 3600,
        "operations_per_second": counted * whole.batch_size / seconds,
        "gpu_memory_mib": torch.cuda.max_memory_allocated(device) / 2**20,
    }
    print(
        f"| `{preset}` | {whole.epochs} × {whole.batch_size} | {counted / 1e9:.0f} GFLOP | {1000 * seconds:.0f} ms "
        f"| {row['images_per_second']:.0f} | {row['hours']:.2f} h | {row['operations_per_second'] / 1e12:.0f} TFLOP/s "
        f"| {row['gpu_memory_mib']:.0f} MiB |",
        flush=True,
    )
    return row


def _paper_row(preset: Preset, dataset: Dataset, info: DatasetInfo, *, batch: int) -> dict[str, Any]:
    body = _body(preset, "clead", info)
    params = METHODS["clead"].params.model_validate(body)
    fewer = body | {"batch_size": batch}
    counted = _operations(fewer, dataset, device="cpu")
    seconds = seconds_per_update(fewer, dataset, updates=1) / batch
    images = _images(body, dataset)
    row: dict[str, Any] = {
        "preset": preset,
        "epochs": params.epochs,
        "batch_size": params.batch_size,
        "operations_per_image": counted,
        "seconds_per_image_here": seconds,
        "days_here": seconds * images / 86400,
        "process_memory_mib": peak_memory() / 2**20,
    }
    print(
        f"| `{preset}` | {params.epochs} × {params.batch_size} | {counted / 1e9:.0f} GFLOP "
        f"| {1000 * seconds:.0f} ms | {row['days_here']:.0f} days |",
        flush=True,
    )
    return row


if __name__ == "__main__":
    main()
