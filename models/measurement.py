"""What a finished model is worth on clean images, always in float32 and eval mode."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from models.data.images import ImageSet
from models.networks import ImageModel, frozen
from models.precision import exact_float32

BATCH = 500
KNN_TEMPERATURE = 0.07
"""Of the votes' weights, as in Wu et al. 2018 (arXiv 1805.01978, §3.4)."""


@torch.no_grad()
def features_of(model: ImageModel, images: ImageSet, *, device: torch.device) -> Tensor:
    """Features (N, D) in float32, on ``device``."""
    with frozen(model), exact_float32(device):
        return torch.cat([model.features(chunk) for chunk in _chunks(images, device)])


@torch.no_grad()
def predictions_of(model: ImageModel, images: ImageSet, *, device: torch.device) -> Tensor:
    """Classes (N,) that a classifier gives the images, on the CPU."""
    with frozen(model), exact_float32(device):
        return torch.cat([model(chunk).argmax(dim=1).cpu() for chunk in _chunks(images, device)])


def accuracy_of(model: ImageModel, images: ImageSet, *, device: torch.device) -> float:
    """The share of images that a classifier names right."""
    return float((predictions_of(model, images, device=device) == images.labels).double().mean())


def knn_accuracy(
    model: ImageModel, images: ImageSet, *, device: torch.device, seed: int, neighbours: int = 20, queries: int = 1000
) -> float | None:
    """Accuracy of a weighted vote of the nearest neighbours by cosine, on images held out of the neighbours' bank.

    Both come from ``images``, which should be training images: a fifth of them, at most ``queries``, are asked. None
    if there are too few images to ask.
    """
    count = min(queries, len(images) // 5)
    if count < 2:
        return None
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    asked, bank = images.take(order[:count]), images.take(order[count : count + 10 * queries])
    keys, questions = (features_of(model, part, device=device) for part in (bank, asked))
    return knn_accuracy_between(questions, asked, keys, bank, neighbours=neighbours)


def knn_accuracy_between(
    questions: Tensor, asked: ImageSet, keys: Tensor, bank: ImageSet, *, neighbours: int = 20
) -> float:
    """As :func:`knn_accuracy`, of features (N, D) of ``asked`` and (M, D) of ``bank``."""
    questions, keys = functional.normalize(questions, dim=1), functional.normalize(keys, dim=1)
    nearest = (questions @ keys.T).topk(min(neighbours, len(bank)), dim=1)
    votes = functional.one_hot(bank.labels.to(keys.device)[nearest.indices], len(bank.classes))
    weights = (nearest.values / KNN_TEMPERATURE).softmax(dim=1)
    answers = (votes * weights[:, :, None]).sum(dim=1).argmax(dim=1).cpu()
    return float((answers == asked.labels).double().mean())


def _chunks(images: ImageSet, device: torch.device) -> Iterator[Tensor]:
    """Pixels in [0, 1] on ``device``, a few images at a time: the whole set as floats may not fit."""
    for start in range(0, len(images), BATCH):
        yield images.images[start : start + BATCH].to(device).float() / 255
