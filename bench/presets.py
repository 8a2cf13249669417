"""What the presets with the paper's settings cost: an update on this machine, and an estimate for GPUs.

    python -m bench.presets [cifar10.zip] [--batch 64]

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

from app.services.presets import ProtocolParams, training_body
from bench.training import seconds_per_update
from bench.victims import cifar10, described
from models.device_memory import peak_memory
from models.methods.spec import METHODS

RESULTS = Path(__file__).parent / "results" / "presets.json"
PRESETS = ("paper-resnet18", "paper-resnet34", "paper-resnet50")
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
    rows = []
    for preset in PRESETS:
        asked = {"preset": preset, "dataset": {"name": "cifar10"}, "methods": ["clead"]}
        body = training_body(ProtocolParams.model_validate(asked), info, method="clead")
        params = METHODS["clead"].params.model_validate(body)
        small = body | {"batch_size": chosen.batch}
        with FlopCounterMode(display=False) as counter:
            seconds_per_update(small, dataset, updates=1)
        counted = counter.get_total_flops() / 2 / chosen.batch  # of two updates
        seconds = seconds_per_update(small, dataset, updates=1) / chosen.batch
        images = params.epochs * (len(dataset.train) // params.batch_size) * params.batch_size
        hours = {name: counted * images / peak / SHARE / 3600 for name, peak in PEAKS.items()}
        row = {
            "preset": preset,
            "epochs": params.epochs,
            "batch_size": params.batch_size,
            "operations_per_image": counted,
            "seconds_per_image_here": seconds,
            "days_here": seconds * images / 86400,
            "process_memory_mib": peak_memory() / 2**20,
            "hours_estimated": hours,
        }
        rows.append(row)
        print(line(row), flush=True)
    report: dict[str, Any] = {
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "batch": chosen.batch,
        "share_of_peak_assumed": SHARE,
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")


def line(row: dict[str, Any]) -> str:
    """The row as docs/benchmarks.md shows it."""
    hours = " | ".join(f"{value:.1f} h" for value in row["hours_estimated"].values())
    return (
        f"| `{row['preset']}` | {row['epochs']} × {row['batch_size']} | {row['operations_per_image'] / 1e9:.0f} GFLOP "
        f"| {1000 * row['seconds_per_image_here']:.0f} ms | {row['days_here']:.0f} days | {hours} |"
    )


if __name__ == "__main__":
    main()
