"""A small real victim: a network trained here on scikit-learn's digits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from models.data.images import ImageSet


@dataclass(frozen=True)
class Victim:
    """A trained classifier in evaluation mode and test images that it was not trained on."""

    model: nn.Module
    images: ImageSet

    def right(self, count: int) -> tuple[Tensor, Tensor]:
        """The first ``count`` test images that the model gets right, float32 in [0, 1], and their labels."""
        pixels = self.images.images.float() / 255
        with torch.no_grad():
            chosen = (self.model(pixels).argmax(1) == self.images.labels).nonzero().squeeze(1)[:count]
        return pixels[chosen], self.images.labels[chosen]


@pytest.fixture(scope="session")
def victim() -> Victim:
    data = load_digits()
    pixels = torch.from_numpy((data.images / 16 * 255).round()).to(torch.uint8)[:, None]
    labels = torch.from_numpy(data.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(7))
    train, test = order[:1400], order[1400:]
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * 16, 10),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
        for step in range(150):
            batch = train[torch.arange(step * 100, step * 100 + 100) % len(train)]
            # Smoothing keeps it from being so sure that its float32 gradients are rounding noise.
            logits = model(pixels[batch].float() / 255)
            loss = nn.functional.cross_entropy(logits, labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        optimizer.zero_grad()
    return Victim(model.eval(), ImageSet(pixels[test], labels[test], tuple(str(digit) for digit in range(10))))
