"""Linear probe: what a frozen backbone's features are worth to one linear layer (standard linear fine-tuning, SLF)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from models.attacks.noise import derive_seed
from models.data.images import Dataset, subset
from models.data.loader import Augmentation, Loader
from models.loop import Checkpointing, Task, optimize
from models.measurement import accuracy_of, features_of
from models.networks import Classifier, ImageModel, IncompatibleModelError, copy_backbone, initialize
from models.precision import deterministic, pick_device
from models.progress import Moment, Reporter
from models.randomness import generator_for
from models.specs import ModelCard, ProbeParams, ScheduleSpec
from models.training import TrainingOutcome, fingerprint


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
    """Train a linear classifier by cross-entropy on the features of ``encoder``'s backbone, in float32.

    The backbone's weights and normalization statistics in the answer are bit for bit those of ``encoder``, which may
    be a classifier too (its own head is left). ``workdir``, ``resume`` and errors: as in
    :func:`models.training.train`.
    """
    device = pick_device(device) if isinstance(device, str) else device
    model = _with_new_head(encoder, dataset, seed=params.seed).to(device)
    images = subset(dataset.train, params.dataset.subset, seed=params.dataset.seed)
    loader = Loader(images, params.batch_size, seed=params.seed, device=device)
    augment = Augmentation(params.augmentation)
    # Without augmentation an image's features never change: one pass computes them for all epochs.
    known = features_of(model, images, device=device) if augment.changes_nothing else None

    def loss(moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        if known is not None:
            features, labels = known[loader.index(moment.step)], loader.labels(moment.step)
        else:
            pixels, labels = loader.batch(moment.step)
            generator = generator_for(params.seed, "step", moment.step, device=device)
            with torch.no_grad():
                features = model.features(augment(pixels, generator))
        logits = model.head(features)
        accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
        return functional.cross_entropy(logits, labels), {"batch_accuracy": accuracy}

    task = Task(
        modules=model.head,
        loss=loss,
        optimizer=params.optimizer,
        schedule=ScheduleSpec(name="constant"),
        steps_per_epoch=loader.steps_per_epoch,
        epochs=params.epochs,
        batch_size=params.batch_size,
        fingerprint=fingerprint(params, dataset),
        stage="probe",
    )
    checkpointing = Checkpointing(workdir, resume, seconds=checkpoint_seconds, steps=checkpoint_steps)
    with deterministic(device):
        result = optimize(task, reporter, checkpointing=checkpointing)
    del result["attack_share"]  # nothing is attacked here
    result |= {"images": len(images), "warnings": [], "clean_accuracy": accuracy_of(model, dataset.test, device=device)}
    return TrainingOutcome(model.cpu().eval(), result)


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
