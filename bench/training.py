"""Training speed: C-LEAD and PGD-AT beside a plain loop written the usual way, in one run.

    python -m bench.training [cifar10.zip] [--width 32] [--batch 64] [--steps 6] [--rounds 3]
        [--device cuda] [--compile]

The plain loop: a DataLoader, augmentation by torchvision image by image, float32 (with TF32 where torch uses it by
itself), a forward pass of its own for every view and in every attack step. Ours: `models.training` as a job runs it.
Equal networks, batches and attacks; the two alternate; images a second are the median over the rounds after a step of
warm-up, which compiles where asked to. Then a profile of the rest of ours; on a GPU also how much of an update's time
its kernels fill, the rest being waiting for the processor that launches them. Writes ``bench/results/training.json``,
of another device ``training-<device>.json``, compiled ``training-compiled….json``; the last line is
``ratios: clead=… pgd-at=…``, times faster than the plain loop.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torchvision.transforms import Compose, RandomCrop, RandomHorizontalFlip, ToPILImage, ToTensor

from bench.machine import described, finished, on_gpu, results_file
from bench.victims import EPS, cifar10
from models.data.images import Dataset
from models.losses import NTXent, contrastive_margin
from models.methods.spec import METHODS
from models.networks import ProjectionHead, build_model
from models.progress import Silent, Stopped
from models.specs import BackboneSpec, ModelCard, ProjectionSpec
from models.training import train

STEPS, STEP_SIZE, LR = 5, EPS / 4, 0.05
Step = Callable[[], None]
TOP = 8
"""Operations of the profile that are shown."""
COSTLIER_LATER = {"fat": 300}
"""Updates to measure, by methods whose attacks end early on a fresh network."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", nargs="?", type=Path)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6, help="timed updates a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--loader-workers", type=int, default=0, help="processes of the plain loop's DataLoader")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="ours by torch.compile")
    chosen = parser.parse_args()
    dataset = cifar10(chosen.archive)
    measured: dict[str, dict[str, list[float]]] = {}
    for method in ("clead", "pgd-at"):
        speeds: dict[str, list[float]] = {"plain loop": [], "clead": []}
        for _ in range(chosen.rounds):
            speeds["plain loop"].append(_plain(method, dataset, chosen))
            speeds["clead"].append(_ours(method, dataset, chosen))
        measured[method] = speeds
        for name, found in speeds.items():
            print(f"{method:<8}{name:<12}{statistics.median(found):8.1f} images/s   {[round(v, 1) for v in found]}")
    ratios = {
        method: statistics.median(ours / plain for ours, plain in zip(found["clead"], found["plain loop"], strict=True))
        for method, found in measured.items()
    }
    left = {method: _profile(method, dataset, chosen) for method in measured}
    for method, rows in left.items():
        print(f"{method}: " + ", ".join(f"{row['operation']} {row['share']:.0%}" for row in rows))
    filled = {}
    if on_gpu(chosen.device):
        for method, (most, *_) in left.items():
            kernels = most["seconds"] / most["share"]
            filled[method] = kernels * statistics.median(measured[method]["clead"]) / chosen.batch
            print(f"{method}: kernels fill {filled[method]:.0%} of an update's time")
    report = {
        **described(chosen.device),
        "options": {name: value for name, value in vars(chosen).items() if name != "archive"},
        "images_per_second": measured,
        "ratios": ratios,
        "share_of_our_time": left,
        "filled_by_kernels": filled,
    }
    name = "training-compiled" if chosen.compile else "training"
    results_file(name, chosen.device).write_text(json.dumps(report, indent=2) + "\n")
    print("ratios: " + " ".join(f"{method}={ratio:.2f}" for method, ratio in ratios.items()))


def _params(method: str, chosen: argparse.Namespace) -> dict[str, Any]:
    attack = {"eps": EPS, "steps": STEPS, "step_size": STEP_SIZE}
    attacks = (
        {"attack": attack} if method == "pgd-at" else {"views": [{"name": name, **attack} for name in ("pgd", "cw")]}
    )
    return {
        "method": method,
        "dataset": {"name": "cifar10"},
        "backbone": {"name": "resnet18", "width": chosen.width},
        "batch_size": chosen.batch,
        "optimizer": {"lr": LR},
        "epochs": 1,
        "compile": chosen.compile,
        **attacks,
    }


class _Timed(Silent):
    """Stops a training after so many steps, and times all but the first; ``recorder`` sees those alone."""

    def __init__(self, steps: int, recorder: profile | None = None) -> None:
        self._steps = steps
        self._recorder = recorder
        self._began = 0.0
        self.seconds = 0.0
        self.done = 0

    def progress(self, done: int, total: int, *, unit: str, stage: str) -> None:
        if done == 1:
            self._began = time.perf_counter()
            if self._recorder is not None:
                self._recorder.start()
        self.done, self.seconds = done, time.perf_counter() - self._began
        if self._recorder is not None and self.should_stop():
            self._recorder.stop()  # before the checkpoint that ends the training

    def should_stop(self) -> bool:
        return self.done > self._steps


def _ours(method: str, dataset: Dataset, chosen: argparse.Namespace) -> float:
    seconds = seconds_per_update(_params(method, chosen), dataset, updates=chosen.steps, device=chosen.device)
    return float(chosen.batch / seconds)


def seconds_per_update(
    body: dict[str, Any],
    dataset: Dataset,
    *,
    updates: int | None = None,
    recorder: profile | None = None,
    device: str = "cpu",
) -> float:
    """Of a training with this spec, without its first update and looks at held-out images; by default the mean of 4.

    A fresh network stands for a base model.
    """
    updates = updates or COSTLIER_LATER.get(body["method"], 4)
    params = METHODS[body["method"]].params.model_validate(body | _unnamed(body) | {"validation": None})
    timed = _Timed(updates, recorder)
    base = None
    if getattr(params, "base_model", None) is not None:
        mean, std = dataset.channel_statistics()
        known: dict[str, Any] = {
            "image_shape": dataset.image_shape,
            "classes": dataset.classes,
            "mean": mean,
            "std": std,
        }
        base = build_model(ModelCard(kind="classifier", backbone=params.backbone, **known))
    with tempfile.TemporaryDirectory() as folder:
        arguments: dict[str, Any] = {"init": None, "base": base, "workdir": Path(folder), "resume": None}
        try:
            train(params, dataset, reporter=timed, device=device, **arguments)
        except Stopped:
            return timed.seconds / updates
    raise AssertionError("the data has fewer batches than are timed")


def _unnamed(body: dict[str, Any]) -> dict[str, Any]:
    needed = METHODS[body["method"]].teacher is not None and "base_model" not in body
    return {"base_model": "fresh"} if needed else {}


def _profile(method: str, dataset: Dataset, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    return busiest(_params(method, chosen), dataset, device=chosen.device)


def busiest(body: dict[str, Any], dataset: Dataset, *, device: str) -> list[dict[str, Any]]:
    """The operations (on a GPU: the kernels) that take most of the device's time, with their share and an update's
    seconds.
    """
    cuda = on_gpu(device)
    recorded = profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda)
    updates = 2
    seconds_per_update(body, dataset, updates=updates, recorder=recorded, device=device)
    times = [
        (event.self_device_time_total if cuda else event.self_cpu_time_total, event.key)
        for event in recorded.key_averages()
        if not cuda or event.device_type == DeviceType.CUDA
    ]
    total = sum(time for time, _ in times)
    return [
        {"operation": name, "share": time / total, "seconds": time / updates / 1e6}
        for time, name in sorted(times, reverse=True)[:TOP]
    ]


class _PerImage(torch.utils.data.Dataset[tuple[Tensor, ...]]):
    """What a script's data set is: an image is augmented when it is asked for, as often as there are ``crops``."""

    def __init__(self, dataset: Dataset, *, crops: int) -> None:
        self._images, self._labels, self._crops = dataset.train.images, dataset.train.labels, crops
        self._augment = Compose([ToPILImage(), RandomCrop(32, padding=4), RandomHorizontalFlip(), ToTensor()])

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return *(self._augment(self._images[index]) for _ in range(self._crops)), self._labels[index]


def _plain(method: str, dataset: Dataset, chosen: argparse.Namespace) -> float:
    mean, std = dataset.channel_statistics()
    card = ModelCard(
        kind="classifier" if method == "pgd-at" else "encoder",
        backbone=BackboneSpec(width=chosen.width),
        image_shape=dataset.image_shape,
        classes=dataset.classes if method == "pgd-at" else None,
        mean=mean,
        std=std,
    )
    network = build_model(card).train().to(chosen.device)
    data = _PerImage(dataset, crops=1 if method == "pgd-at" else 2)
    loader = DataLoader(data, batch_size=chosen.batch, shuffle=True, drop_last=True, num_workers=chosen.loader_workers)
    batches = ([part.to(chosen.device) for part in batch] for batch in loader)
    step = _plain_pgd_at(network, batches) if method == "pgd-at" else _plain_clead(network, batches)
    step()
    finished(chosen.device)
    began = time.perf_counter()
    for _ in range(chosen.steps):
        step()
    finished(chosen.device)
    return float(chosen.batch * chosen.steps / (time.perf_counter() - began))


def _plain_pgd_at(network: nn.Module, batches: Iterator[list[Tensor]]) -> Step:
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, weight_decay=1e-4)

    def step() -> None:
        images, labels = next(batches)
        network.eval()
        attacked = _plain_attack(images, lambda points: nn.functional.cross_entropy(network(points), labels))
        network.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(attacked), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _plain_clead(network: Any, batches: Iterator[list[Tensor]]) -> Step:
    head = ProjectionHead(network.backbone.feature_dim, ProjectionSpec()).to(next(network.parameters()).device)
    optimizer = torch.optim.SGD([*network.parameters(), *head.parameters()], lr=LR, momentum=0.9, weight_decay=1e-4)
    contrast = NTXent(0.1)

    def embed(images: Tensor) -> Tensor:
        embedded: Tensor = head(network(images))
        return embedded

    def step() -> None:
        first, second, _ = next(batches)
        network.eval()
        pgd = _plain_attack(second, lambda points: contrast(embed(first), embed(points)))
        cw = _plain_attack(second, lambda points: contrastive_margin(embed(points), embed(first)).sum())
        network.train()
        optimizer.zero_grad()
        loss = (contrast(embed(first), embed(pgd)) + contrast(embed(first), embed(cw))) / 2
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _plain_attack(images: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """PGD as training scripts have it."""
    points = (images + torch.empty_like(images).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(STEPS):
        points = points.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(objective(points), points)
        points = points.detach() + STEP_SIZE * gradient.sign()
        points = torch.min(torch.max(points, images - EPS), images + EPS).clamp(0, 1)
    return points.detach()


if __name__ == "__main__":
    main()
