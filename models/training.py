"""Trainings by any registered method, repeatable and resumable: on one CPU the same spec gives the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from models.attacks.noise import derive_seed
from models.average import Average
from models.data.images import DataError, Dataset, ImageSet, labelled, stratified, subset
from models.data.loader import Augmentation, Loader
from models.distributed import agreed, alone, rank, synchronize
from models.loop import Task, Watch, kept_by, optimize
from models.measurement import accuracy_of, knn_accuracy
from models.methods.spec import METHODS, Learner, Method
from models.networks import ImageModel, IncompatibleModelError, build_model, copy_backbone
from models.precision import Resolved, autocast, pick_device, resolve_precision, training_algorithms
from models.progress import Moment, Reporter
from models.randomness import generator_for, torch_seeded
from models.resuming import Checkpointing, fingerprint
from models.specs import LabelledData, ModelCard, TrainingParams, held_out_size
from models.validation import PGD, Validation


@dataclass(frozen=True)
class TrainingOutcome:
    """The trained model, on the CPU in eval mode, and the job's result as JSON-safe values."""

    model: ImageModel
    result: dict[str, Any]


def train(
    params: TrainingParams,
    dataset: Dataset,
    *,
    init: ImageModel | None,
    base: ImageModel | None,
    workdir: Path,
    resume: Path | None,
    reporter: Reporter,
    device: torch.device | str = "auto",
    checkpoint_seconds: float = 30.0,
    checkpoint_steps: int | None = None,
) -> TrainingOutcome:
    """Train by ``METHODS[params.method]`` on the training split of ``dataset``.

    ``init``: its backbone and normalization are started from. ``base``: the model of ``params.base_model``.
    Resume checkpoints are written into ``workdir`` every ``checkpoint_seconds`` (and every ``checkpoint_steps``, if
    given); ``resume`` is one of them. Where several processes train together (:mod:`models.distributed`), each calls
    this with its own ``device``; the first alone writes checkpoints and measures. Raises
    :class:`models.progress.Stopped`, :class:`models.loop.DivergedError`, :class:`IncompatibleModelError`,
    :class:`models.distributed.UnsynchronizableError`, :class:`models.data.DataError`,
    :class:`models.checkpoints.CheckpointError`.
    """
    device = pick_device(device) if isinstance(device, str) else device
    method = METHODS[params.method]
    base = base.to(device) if base is not None else None
    drawn = subset(dataset.train, params.dataset.subset, seed=params.dataset.seed)
    run = fingerprint(params, dataset.sha256)
    kept = kept_by(resume, fingerprint=run)
    images, held = _trained_on(drawn, method, params, base=base, device=device, kept=kept)
    augment = Augmentation(params.augmentation)
    model = _starting_model(method, params, dataset, classes=images.classes, init=init)
    learner = method.build(params, model, base=base, augment=augment)
    synchronize(learner.modules)
    learner.modules.to(device).to(memory_format=torch.channels_last)
    average = None if params.ema is None else Average(learner.published(), decay=params.ema)
    if params.compile:
        learner.published().backbone.compile()
    published = learner.published() if average is None else cast(ImageModel, average.model)
    loader = Loader(images, params.batch_size, seed=params.seed, device=device)
    precision = kept.get("precision") or resolve_precision(params.precision, device)
    if method.relabel is not None:
        kept |= {"labels": images.labels, "classes": list(images.classes)}
    task = Task(
        modules=learner.modules,
        loss=Steps(learner, loader, seed=params.seed, precision=precision, device=device),
        optimizer=params.optimizer,
        schedule=params.schedule,
        steps_per_epoch=loader.steps_per_epoch,
        epochs=params.epochs,
        batch_size=params.batch_size,
        fingerprint=run,
        stage=method.kind,
        attack_time=learner.attack_time,
        average=average,
        watch=_watch(params, published, held, images, steps_per_epoch=loader.steps_per_epoch, device=device),
        kept=kept | {"precision": precision},
    )
    checkpointing = Checkpointing(workdir, resume, seconds=checkpoint_seconds, steps=checkpoint_steps)
    with training_algorithms(device, learner.modules):
        result = optimize(task, reporter, checkpointing=checkpointing)
    result |= {
        "precision": precision,
        "images": len(images),
        "warnings": _warnings(method, params, task, result, classes=len(dataset.classes)) + learner.remarks(),
    }
    if rank() == 0:
        with alone():
            result |= _measured(published, dataset, drawn, device=device, seed=params.seed)
    return TrainingOutcome(published.cpu().eval(), result)


class Steps:
    """``Steps(…)(moment)``: the learner's loss on the moment's batch, every random choice drawn from (seed, step)."""

    def __init__(
        self, learner: Learner, loader: Loader, *, seed: int, precision: Resolved, device: torch.device
    ) -> None:
        self._learner = learner
        self._loader = loader
        self._seed = seed
        self._precision = precision
        self._device = device

    def __call__(self, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        images, labels = self._loader.batch(moment.step)
        generator = generator_for(self._seed, "step", moment.step, device=self._device)
        # Dropout and the like, which every process draws for its own images.
        network = torch_seeded(derive_seed(self._seed, "network", moment.step, rank()), device=self._device)
        with autocast(self._precision, self._device), network:
            return self._learner.loss(images, labels, moment=moment, generator=generator)


def _trained_on(
    images: ImageSet,
    method: Method,
    params: TrainingParams,
    *,
    base: ImageModel | None,
    device: torch.device,
    kept: Mapping[str, Any],
) -> tuple[ImageSet, ImageSet]:
    """What is trained on, and the labelled images that are held out: none without a validation.

    Of the images without a label, those are trained on that the method gives one to; ``kept``, of an interrupted run,
    has the labels that it gave.
    """
    data = params.dataset
    fraction = data.labels_fraction if isinstance(data, LabelledData) else 1.0
    known = labelled(images, fraction, seed=data.seed)
    held = _held_out(images.take(known), params)
    rest = torch.ones(len(images), dtype=torch.bool)
    rest[known[held]] = False
    has_label = torch.zeros(len(images), dtype=torch.bool)
    has_label[known] = True
    if method.relabel is None:
        return images.take((rest & has_label).nonzero().flatten()), images.take(known[held])
    taken = rest.nonzero().flatten()
    chosen = images.take(taken)
    if "labels" in kept:
        labels, classes = kept["labels"], tuple(kept["classes"])
    else:
        has_label, relabel = has_label[taken], method.relabel

        def found() -> tuple[Tensor, tuple[str, ...]]:
            named = relabel(params, chosen, known=has_label.nonzero().flatten(), base=base, device=device)
            return named.labels, named.classes

        labels, classes = agreed(found)
    return ImageSet(chosen.images, labels, classes), images.take(known[held])


def _held_out(known: ImageSet, params: TrainingParams) -> Tensor:
    """Positions among the labelled images."""
    if params.validation is None:
        return torch.arange(0)
    count = held_out_size(len(known), params.validation)
    if count < len(known.classes):
        raise DataError(
            f"{count} of the {len(known)} labelled images would be held out for validation, which is not one a class; "
            "at most a fifth are: give more images, or leave validation null"
        )
    return stratified(known, count, seed=derive_seed(params.seed, "validation"))


def _watch(
    params: TrainingParams,
    model: ImageModel,
    held: ImageSet,
    images: ImageSet,
    *,
    steps_per_epoch: int,
    device: torch.device,
) -> Watch | None:
    spec = params.validation
    if spec is None:
        return None
    return Watch(
        model=model,
        look=Validation(model, held, images, spec=spec, seed=params.seed, device=device),
        score=PGD,
        every=max(1, round(spec.every_epochs * steps_per_epoch)),
        keep_best=spec.keep == "best",
        patience=spec.patience,
    )


def _starting_model(
    method: Method, params: TrainingParams, dataset: Dataset, *, classes: tuple[str, ...], init: ImageModel | None
) -> ImageModel:
    mean, std = dataset.channel_statistics() if init is None else (init.card.mean, init.card.std)
    if len(mean) != dataset.image_shape[0]:
        raise IncompatibleModelError(f"init takes {len(mean)} channels; the data has {dataset.image_shape[0]}")
    card = ModelCard(
        kind="classifier" if method.kind == "train" else "encoder",
        backbone=params.backbone,
        image_shape=dataset.image_shape,
        classes=classes if method.kind == "train" else None,
        mean=mean,
        std=std,
    )
    model = build_model(card, seed=derive_seed(params.seed, "weights"))
    if init is not None:
        copy_backbone(init, model)
    return model


def _measured(
    model: ImageModel, dataset: Dataset, images: ImageSet, *, device: torch.device, seed: int
) -> dict[str, float | None]:
    """Clean accuracy on the test split; for an encoder or other classes, that of neighbours among training images."""
    if model.card.kind == "classifier" and model.card.classes == dataset.classes:
        return {"clean_accuracy": accuracy_of(model, dataset.test, device=device)}
    return {"knn_accuracy": knn_accuracy(model, images, device=device, seed=seed)}


def _warnings(
    method: Method, params: TrainingParams, task: Task, result: Mapping[str, Any], *, classes: int
) -> list[dict[str, str]]:
    warnings = []
    steps, best = result["steps"], result.get(f"best_{PGD}", 1.0)
    if params.validation is not None and params.validation.keep == "best" and best <= 1 / classes:
        detail = f"the best look stood {best:.1%} under PGD, which is no more than guessing: what is published was "
        warnings.append({"code": "best-by-chance", "detail": detail + 'chosen by chance; take keep "last"'})
    if steps < task.total and params.validation is not None:
        looks = params.validation.patience
        detail = f"ended after {steps} of {task.total} updates: {looks} looks brought nothing better"
        warnings.append({"code": "stopped-early", "detail": detail})
    if task.total < method.few_updates:
        warnings.append(
            {
                "code": "few-updates",
                "detail": f"{task.total} optimizer updates; {method.name} learns little with fewer than "
                f"{method.few_updates}: take a smaller batch_size or more epochs",
            }
        )
    if params.schedule.warmup_epochs >= params.epochs:
        warnings.append(
            {
                "code": "warmup-only",
                "detail": f"{params.schedule.warmup_epochs:g} epochs of warm-up fill all {params.epochs} epochs, so "
                "the learning rate never comes down: take fewer warmup_epochs",
            }
        )
    worst = getattr(getattr(params, "objective", params), "weight_perturbation", None)
    if worst is not None and worst.warmup_epochs >= params.epochs:
        detail = f"weights are perturbed after {worst.warmup_epochs:g} epochs, and there were {params.epochs}: never"
        warnings.append({"code": "weights-never-perturbed", "detail": detail})
    return warnings
