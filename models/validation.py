"""How a training does on held-out training images: clean, and under PGD."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.attacks.iterative import ascend
from models.attacks.noise import BatchNoise, derive_seed
from models.attacks.objectives import cross_entropy
from models.attacks.threat import threat_model
from models.data.images import ImageSet, subset
from models.measurement import BATCH, features_of, knn_accuracy_between
from models.networks import ImageModel, frozen
from models.precision import exact_float32
from models.randomness import generator_for
from models.specs import ValidationSpec

PGD = "validation_pgd_accuracy"
"""What the best look is chosen by."""
BANK = 2000
"""Training images at most whose features tell an encoder's classes apart."""


class Validation:
    """``validation()`` looks at ``model`` once: accuracies by name, on one CPU the same ones for the same model."""

    def __init__(
        self,
        model: ImageModel,
        held: ImageSet,
        bank: ImageSet,
        *,
        spec: ValidationSpec,
        seed: int,
        device: torch.device,
    ) -> None:
        self._model = model
        self._held = held
        self._bank = subset(bank, BANK, seed=derive_seed(seed, "bank"))  # of every class
        self._spec = spec
        self._seed = seed
        self._device = device

    def __call__(self) -> dict[str, float]:
        """In float32 and eval mode, whatever mode the model is in."""
        with exact_float32(self._device), frozen(self._model):
            if self._model.card.kind == "classifier":
                clean, robust = self._accuracies(self._model)
                return {"validation_accuracy": clean, PGD: robust}
            keys = features_of(self._model, self._bank, device=self._device)
            questions = features_of(self._model, self._held, device=self._device)
            neighbours = knn_accuracy_between(questions, self._held, keys, self._bank)
            _, robust = self._accuracies(NearestMean(self._model, keys, self._bank))
            return {"validation_knn_accuracy": neighbours, PGD: robust}

    def _accuracies(self, classify: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """Clean, and under PGD."""
        spec, clean, robust = self._spec, 0, 0
        generator = generator_for(self._seed, "validation", 0, device=self._device)
        for start in range(0, len(self._held), BATCH):
            labels = self._held.labels[start : start + BATCH].to(self._device)
            images = self._held.images[start : start + BATCH].to(self._device).float() / 255
            attacked = ascend(
                lambda points, labels=labels: cross_entropy(classify(points), labels),  # type: ignore[misc]
                images,
                threat=threat_model("linf", spec.eps),
                steps=spec.steps,
                step_size=spec.step_size,
                noise=BatchNoise(generator),
            )
            with torch.no_grad():
                right = classify(images).argmax(dim=1) == labels
                clean += int(right.sum())
                robust += int((right & (classify(attacked).argmax(dim=1) == labels)).sum())
        return clean / len(self._held), robust / len(self._held)


class NearestMean(nn.Module):
    """Logits of an encoder: ten times the cosines between features and the mean feature of each class."""

    def __init__(self, encoder: ImageModel, features: Tensor, images: ImageSet) -> None:
        super().__init__()
        self._encoder = encoder
        labels = images.labels.to(features.device)
        sums = torch.zeros(len(images.classes), features.shape[1], device=features.device)
        self._means = functional.normalize(sums.index_add(0, labels, functional.normalize(features, dim=1)), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        return 10 * functional.normalize(self._encoder.features(images), dim=1) @ self._means.T
