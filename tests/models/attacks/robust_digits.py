"""Small adversarially trained classifiers of digits: attacks break some images of theirs and not all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from models.attacks.objectives import is_right


@dataclass(frozen=True)
class Robust:
    """An adversarially trained classifier of the first digits, and test images that it gets right."""

    model: nn.Module
    images: Tensor
    labels: Tensor


def hardened(*, classes: int, steps: int) -> Robust:
    """A small network trained on perturbed digits below ``classes``."""
    data = load_digits()
    chosen = data.target < classes
    pixels = torch.from_numpy(data.images[chosen] / 16).float()[:, None]
    labels = torch.from_numpy(data.target[chosen]).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(7))
    train, test = order[: len(order) * 3 // 4], order[len(order) * 3 // 4 :]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = nn.Sequential(
            nn.Conv2d(1, 12, 3, stride=2, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12 * 16, 32),
            nn.ReLU(),
            nn.Linear(32, classes),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for step in range(steps):
            batch = train[torch.arange(step * 100, step * 100 + 100) % len(train)]
            x, y = pixels[batch], labels[batch]
            delta = torch.zeros_like(x).uniform_(-0.15, 0.15)
            for _ in range(2):
                delta.requires_grad_(True)
                (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(x + delta), y), delta)
                delta = (delta.detach() + 0.1 * gradient.sign()).clamp(-0.15, 0.15)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model((x + delta).clamp(0, 1)), y).backward()
            optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        test = test[is_right(model(pixels[test]), labels[test])]
    return Robust(model, pixels[test], labels[test])
