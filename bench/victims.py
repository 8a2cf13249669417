"""The models that the benchmarks attack: trained here, in minutes, on CIFAR-10."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.services.datasets import DatasetInfo
from models import data
from models.checkpoints import load_model, save_model
from models.data.images import Dataset, ImageSet
from models.methods.spec import METHODS
from models.networks import ImageModel
from models.probe_spec import ProbeParams
from models.probing import probe
from models.progress import Reporter, Silent
from models.training import train

CACHE = Path(tempfile.gettempdir()) / "clead-bench"
EPS = 8 / 255
NETWORK = {"name": "resnet18", "width": 16}
COMMON: dict[str, Any] = {
    "dataset": {"name": "cifar10", "subset": 10_000},
    "backbone": NETWORK,
    "batch_size": 128,
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    "schedule": {"name": "cosine", "warmup_epochs": 1},
    "augmentation": {"crop_padding": 4, "flip": True},
}
RECIPES: dict[str, dict[str, Any]] = {
    "standard": {"method": "standard", "epochs": 12},
    "robust": {
        "method": "pgd-at",
        "epochs": 12,
        "attack": {"name": "pgd", "eps": EPS, "steps": 2, "step_size": EPS / 2},
    },
}


def cifar10(archive: Path | None) -> Dataset:
    """CIFAR-10 from an archive of ``train|test/<class>/*``, or downloaded if there is none."""
    return data.load("cifar10", root=CACHE, upload=archive)


def described(dataset: Dataset, *, name: str = "cifar10") -> DatasetInfo:
    """The data set as the service's presets look at it."""
    return DatasetInfo(
        name=name,
        source="",
        kind="builtin",
        classes=dataset.classes,
        image_shape=dataset.image_shape,
        train_size=len(dataset.train),
        test_size=len(dataset.test),
    )


def test_images(dataset: Dataset, count: int) -> tuple[Tensor, Tensor]:
    """A stratified part of the test split: float32 pixels in [0, 1] and labels."""
    chosen: ImageSet = data.subset(dataset.test, count, seed=0)
    return chosen.pixels(), chosen.labels


def trained(name: str, dataset: Dataset) -> ImageModel:
    """The model of that recipe; trained once for each data set and recipe, then kept in the temporary folder."""
    recipe = {**COMMON, **RECIPES[name]}
    key = hashlib.sha256(json.dumps([recipe, dataset.sha256], sort_keys=True).encode()).hexdigest()[:16]
    path = CACHE / f"{name}-{key}.safetensors"
    if not path.exists():
        print(f"training the {name} model (a few minutes) ...", flush=True)
        save_model(path, fitted(recipe, dataset)[0])
    torch.manual_seed(0)
    return load_model(path)


def fitted(
    body: dict[str, Any],
    dataset: Dataset,
    *,
    probing: dict[str, Any] | None = None,
    reporter: Reporter | None = None,
    device: str = "cpu",
) -> tuple[ImageModel, dict[str, Any]]:
    """The model of a training by ``body``, and what it told; by ``probing`` a linear probe on what a method without
    labels leaves, and ``probe_seconds``.
    """
    params = METHODS[body["method"]].params.model_validate(body)
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {"workdir": Path(folder), "resume": None, "device": device}
        outcome = train(params, dataset, init=None, base=None, reporter=reporter or Silent(), **common)
        if probing is None or METHODS[params.method].kind == "train":
            return outcome.model, outcome.result
        probed = probe(ProbeParams.model_validate(probing), outcome.model, dataset, reporter=Silent(), **common)
        return probed.model, outcome.result | {"probe_seconds": probed.result["seconds"]}
