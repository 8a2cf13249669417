"""Probes: what a pretrained backbone is worth to a classifier, in the field's three protocols (SLF, ALF, AFF)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.attacks.noise import derive_seed
from models.data.images import Dataset, ImageSet, labelled, subset
from models.data.loader import Augmentation, Loader
from models.loop import Task, kept_by, optimize
from models.measurement import accuracy_of, features_of
from models.methods.spec import Augment, Learner, TrainingAttack
from models.methods.supervised import accuracy, strike
from models.methods.trades import TradesLearner
from models.networks import Classifier, ImageModel, IncompatibleModelError, copy_backbone, initialize
from models.precision import exact_float32, pick_device, resolve_precision, training_algorithms
from models.probe_spec import ProbeParams
from models.progress import Moment, Reporter
from models.randomness import generator_for
from models.resuming import Checkpointing, fingerprint
from models.specs import ModelCard
from models.stopwatch import Stopwatch
from models.training import Steps, TrainingOutcome

Loss = Callable[[Moment], tuple[Tensor, dict[str, Tensor]]]


def probe(
    params: ProbeParams,
    encoder: ImageModel,
    dataset: Dataset,
    *,
    workdir: Path,
    resume: Path | None,
    reporter: Reporter,
    device: torch.device | str = "auto",
    checkpoint_seconds: float = 30.0,
    checkpoint_steps: int | None = None,
) -> TrainingOutcome:
    """Train a classifier on ``encoder``'s backbone, which may be a classifier's too (its own head is left).

    In the two linear modes the backbone's weights and normalization statistics in the answer are bit for bit those of
    ``encoder``. ``workdir``, ``resume`` and errors: as in :func:`models.training.train`.
    """
    device = pick_device(device) if isinstance(device, str) else device
    model = _with_new_head(encoder, dataset, seed=params.seed).to(device)
    images = subset(dataset.train, params.dataset.subset, seed=params.dataset.seed)
    images = images.take(labelled(images, params.dataset.labels_fraction, seed=params.dataset.seed))
    loader = Loader(images, params.batch_size, seed=params.seed, device=device)
    augment = Augmentation(params.augmentation)
    learner = _learner(params, model, augment)
    run = fingerprint(params, dataset.sha256)
    kept = kept_by(resume, fingerprint=run)
    resolved = "float32" if learner is None else resolve_precision(params.precision, device)
    precision = kept.get("precision", resolved)
    if learner is None:
        loss: Loss = _linear(params, model, images, loader, augment, device=device)
    else:
        loss = Steps(learner, loader, seed=params.seed, precision=precision, device=device)
    task = Task(
        modules=model.head if learner is None else learner.modules,
        loss=loss,
        optimizer=params.optimizer,
        schedule=params.schedule,
        steps_per_epoch=loader.steps_per_epoch,
        epochs=params.epochs,
        batch_size=params.batch_size,
        fingerprint=run,
        stage="probe",
        attack_time=Stopwatch() if learner is None else learner.attack_time,
        kept={"precision": precision},
    )
    checkpointing = Checkpointing(workdir, resume, seconds=checkpoint_seconds, steps=checkpoint_steps)
    with training_algorithms(device, task.modules):
        result = optimize(task, reporter, checkpointing=checkpointing)
    if learner is None:
        del result["attack_share"]  # nothing is attacked here
    result |= {"images": len(images), "warnings": [], "clean_accuracy": accuracy_of(model, dataset.test, device=device)}
    return TrainingOutcome(model.cpu().eval(), result)


def _learner(params: ProbeParams, model: Classifier, augment: Augmentation) -> Learner | None:
    """What the adversarial modes minimize; None: a linear probe, whose features may be computed once for all epochs."""
    if params.mode == "linear":
        return None
    if params.mode == "adversarial-linear":
        return AttackedHead(model, augment, attack=params.attack)
    return TradesLearner(model, augment, attack=params.attack, beta=params.beta)


def _linear(
    params: ProbeParams,
    model: Classifier,
    images: ImageSet,
    loader: Loader,
    augment: Augmentation,
    *,
    device: torch.device,
) -> Loss:
    """Cross-entropy of the head on the frozen backbone's features, in float32."""
    # Without augmentation an image's features never change: one pass computes them for all epochs.
    known = features_of(model, images, device=device) if augment.changes_nothing else None

    def loss(moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        if known is not None:
            features, labels = known[loader.index(moment.step)], loader.labels(moment.step)
        else:
            pixels, labels = loader.batch(moment.step)
            generator = generator_for(params.seed, "step", moment.step, device=device)
            with torch.no_grad(), exact_float32(device):
                features = model.features(augment(pixels, generator))
        logits = model.head(features)
        return functional.cross_entropy(logits, labels), {"batch_accuracy": accuracy(logits, labels)}

    return loss


class AttackedHead:
    """Minimizes CE(h(x'), y) over the head alone, x' attacking the whole classifier; the backbone stays as it is."""

    def __init__(self, model: Classifier, augment: Augment, *, attack: TrainingAttack) -> None:
        self.modules: nn.Module = model.head
        self.attack_time = Stopwatch()
        self._model = model
        self._augment = augment
        self._attack = attack

    def loss(
        self, images: Tensor, labels: Tensor, *, moment: Moment, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`models.methods.spec.Learner`."""
        images = self._augment(images, generator)
        with self.attack_time.running(images.device):
            attacked = strike(self._model, images, labels, attack=self._attack, generator=generator)
        with torch.no_grad():
            features = self._model.features(attacked)
        logits = self._model.head(features).float()
        return functional.cross_entropy(logits, labels), {"batch_accuracy": accuracy(logits, labels)}

    def remarks(self) -> list[dict[str, str]]:
        return []

    def published(self) -> ImageModel:
        return self._model


def _with_new_head(encoder: ImageModel, dataset: Dataset, *, seed: int) -> Classifier:
    """A classifier for the data's classes on a copy of the backbone, in eval mode, its head drawn from ``seed``."""
    if encoder.card.image_shape[0] != dataset.image_shape[0]:
        raise IncompatibleModelError(
            f"the model takes {encoder.card.image_shape[0]} channels; the data has {dataset.image_shape[0]}"
        )
    card = ModelCard(
        kind="classifier",
        backbone=encoder.card.backbone,
        image_shape=dataset.image_shape,
        classes=dataset.classes,
        mean=encoder.card.mean,
        std=encoder.card.std,
    )
    model = Classifier(card)
    initialize(model.head, seed=derive_seed(seed, "head"))
    copy_backbone(encoder, model)
    return model.eval()
