"""Trains by every method as one of several processes: ``python -m tests.models.ranks RANK SIZE FOLDER``.

Leaves ``SIZE.pt`` there: for each case the losses, and the weights that were published. In double precision throughout:
an attack follows the sign of a gradient, and rounding turns those that are nearly zero.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from models.data import load
from models.distributed import joined
from tests.models.recording import Recorder
from tests.models.small_trainings import SPECS, params, run

STEPS = 5
BATCH = 32


def main(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    double: Any = torch.Tensor.double
    torch.Tensor.float = double  # type: ignore[method-assign]
    data = load("digits", root=folder)
    base = run(params("standard", epochs=1), data, folder).model  # before the processes meet: each for itself
    found = {}
    with joined("gloo", folder / f"meeting-place-{size}", rank=rank, size=size) if size > 1 else nullcontext():
        for case, fields in SPECS.items():
            images = BATCH * STEPS + (30 if "watched" in case else 0)
            spec = params(
                case,
                dataset={**fields.get("dataset", {"name": "digits"}), "subset": images},
                epochs=1,
                optimizer={"name": "sgd", "lr": 0.1},
                schedule={"warmup_epochs": 0},
                precision="float32",
                batch_size=BATCH,
                devices=size,
            )
            recorder = Recorder()
            model = run(spec, data, folder, base=base, reporter=recorder).model
            found[case] = recorder.series, model.state_dict()
    if rank == 0:
        torch.save(found, folder / f"{size}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
