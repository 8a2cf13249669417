"""Accuracy of a classifier on corrupted images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.attacks.noise import derive_seed
from models.attacks.objectives import is_right
from models.corruption_spec import CorruptionParams
from models.corruptions.corrupt import corrupt
from models.corruptions.spec import CORRUPTIONS, Corruption
from models.data.images import ImageSet
from models.networks import frozen
from models.precision import exact_float32
from models.progress import Reporter, Stopped
from models.resuming import Checkpointing, Checkpoints, fingerprint
from models.statistics import wilson_interval


class BrokenModelError(RuntimeError):
    """The model answers something that is no prediction (NaN, a wrong shape): the numbers would be wrong."""


def evaluate_corruptions(
    model: nn.Module,
    images: ImageSet,
    params: CorruptionParams,
    *,
    reporter: Reporter,
    device: torch.device | str,
    model_name: str = "",
    dataset_info: Mapping[str, Any] | None = None,
    checkpointing: Checkpointing | None = None,
) -> dict[str, Any]:
    """The result of POST /evaluate/corruptions as JSON: accuracies in float32 with 95 % intervals.

    All of ``images`` are corrupted, those that the model gets wrong too, as CIFAR-10-C is used (Hendrycks & Dietterich
    2019, §4). ``mean_corruption_accuracy`` is the mean over corruptions and severities with equal weights. What an
    image meets depends on the seed, its position in ``images``, the corruption and the severity alone.
    ``model`` is moved to ``device``. With ``checkpointing`` resume checkpoints are written between severities. Raises
    ValueError without images, :class:`BrokenModelError`, :class:`models.checkpoints.CheckpointError` for a checkpoint
    of another evaluation, and :class:`models.progress.Stopped`, after a checkpoint, when the reporter asks.
    """
    if not len(images):
        raise ValueError("there are no images to evaluate on")
    checkpoints = None
    if checkpointing is not None:
        run_id = fingerprint(params, f"{images.labels.tolist()}")  # pixels depend on who decodes them
        checkpoints = Checkpoints(checkpointing, fingerprint=run_id, reporter=reporter)
    run = _Run(
        model.to(device), images, params, reporter=reporter, device=torch.device(device), checkpoints=checkpoints
    )
    try:
        with frozen(model), exact_float32(run.device):
            clean = run.count_right("clean", lambda pixels, index: pixels)
            rows = [_row(run, CORRUPTIONS[name], params.severities) for name in params.corruptions]
    except Stopped:
        run.save()
        raise
    worst = min(rows, key=lambda row: row["mean_accuracy"])
    info = {"name": params.dataset.name, "split": params.dataset.split, **(dataset_info or {}), "size": len(images)}
    return {
        "model": model_name or params.model,
        "dataset": info,
        "clean_accuracy": clean.right / len(images),
        "clean_ci95": list(wilson_interval(clean.right, len(images))),
        "mean_corruption_accuracy": fmean(row["mean_accuracy"] for row in rows),
        "worst_corruption": {"name": worst["name"], "mean_accuracy": worst["mean_accuracy"]},
        "severities": _by_severity(rows, params.severities),
        "corruptions": rows,
        "seconds": run.seconds,
    }


class _Count(NamedTuple):
    """How many images were classified right, and the seconds that it took to find out."""

    right: int
    seconds: float


class _Run:
    """One evaluation on its way: the model, the images, and how far it is.

    ``_counts`` of the stages that are through are all that an interrupted run has to take over.
    """

    def __init__(
        self,
        model: nn.Module,
        images: ImageSet,
        params: CorruptionParams,
        *,
        reporter: Reporter,
        device: torch.device,
        checkpoints: Checkpoints | None,
    ) -> None:
        self._model = model
        self._images = images
        self._params = params
        self._reporter = reporter
        self.device = device
        self._done = 0
        self._total = len(images) * (1 + len(params.corruptions) * len(params.severities))
        self._checkpoints = checkpoints
        interrupted = (checkpoints.interrupted() if checkpoints else None) or {"counts": {}, "seconds": 0.0}
        self._counts = {stage: _Count(*count) for stage, count in interrupted["counts"].items()}
        self._started = time.perf_counter() - float(interrupted["seconds"])

    @property
    def size(self) -> int:
        return len(self._images)

    @property
    def seconds(self) -> float:
        """Since the evaluation began, without the time between its attempts."""
        return time.perf_counter() - self._started

    def save(self) -> None:
        """Write a resume checkpoint, if there is something to go on from."""
        if self._checkpoints is not None and self._counts:
            counts = {stage: list(count) for stage, count in self._counts.items()}
            self._checkpoints.write(len(counts), {"counts": counts, "seconds": self.seconds})

    def count_right(self, stage: str, change: Callable[[Tensor, Tensor], Tensor]) -> _Count:
        """How many images are classified right after ``change``, which gets pixels and their positions (N,)."""
        if stage in self._counts:
            self._done += self.size  # not reported: what is skipped would be taken for speed
            return self._counts[stage]
        right, started = 0, time.perf_counter()
        self._advance(0, stage)
        for start in range(0, self.size, self._params.batch_size):
            if self._reporter.should_stop():
                raise Stopped
            index = torch.arange(start, min(start + self._params.batch_size, self.size))
            batch = self._images.take(index)
            right += self._judge(change(batch.pixels(), index), batch.labels)
            self._advance(len(index), stage)
        self._counts[stage] = _Count(right, time.perf_counter() - started)
        if self._checkpoints is not None and self._checkpoints.due(len(self._counts)):
            self.save()
        return self._counts[stage]

    def count_right_corrupted(self, corruption: Corruption, severity: int) -> _Count:
        """How many images are classified right once they are corrupted."""

        def change(pixels: Tensor, index: Tensor) -> Tensor:
            name, seed = corruption.name, self._params.seed
            seeds = torch.tensor([derive_seed(seed, name, severity, image) for image in index.tolist()])
            return corrupt(pixels, corruption, severity=severity, seeds=seeds)

        return self.count_right(f"{corruption.name} {severity}", change)

    @torch.no_grad()
    def _judge(self, pixels: Tensor, labels: Tensor) -> int:
        logits: Tensor = self._model(pixels.to(self.device))
        if logits.shape != (len(pixels), len(self._images.classes)):
            classes = len(self._images.classes)
            shape = tuple(logits.shape)
            raise BrokenModelError(f"the model answers {shape} for {len(pixels)} images of {classes} classes")
        if logits.isnan().any():
            raise BrokenModelError("the model's logits are not numbers (NaN); a training that diverged?")
        return int(is_right(logits, labels.to(self.device)).sum())

    def _advance(self, images: int, stage: str) -> None:
        self._done += images
        self._reporter.progress(self._done, self._total, unit="image", stage=stage)


def _row(run: _Run, corruption: Corruption, severities: Sequence[int]) -> dict[str, Any]:
    """One entry of ``corruptions``."""
    counts = [run.count_right_corrupted(corruption, severity) for severity in severities]
    points = [
        {
            "severity": severity,
            "accuracy": count.right / run.size,
            "ci95": list(wilson_interval(count.right, run.size)),
        }
        for severity, count in zip(severities, counts, strict=True)
    ]
    return {
        "name": corruption.name,
        "group": corruption.group,
        "mean_accuracy": fmean(count.right / run.size for count in counts),
        "severities": points,
        "note": corruption.note,
        "seconds": sum(count.seconds for count in counts),
    }


def _by_severity(rows: Sequence[Mapping[str, Any]], severities: Sequence[int]) -> list[dict[str, Any]]:
    """Mean accuracy over the corruptions at each severity."""
    return [
        {"severity": severity, "mean_accuracy": fmean(row["severities"][place]["accuracy"] for row in rows)}
        for place, severity in enumerate(severities)
    ]
