"""A small classifier, a few images, and plain counterparts of attacks and losses, for tests of single steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.networks import Classifier, build_model
from models.progress import Moment
from models.specs import BackboneSpec, ModelCard

EPS = 0.1
IMAGES = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(24) % 10


def classifier(*, seed: int = 1, double: bool = False) -> Classifier:
    """In train mode, with normalization statistics that have moved away from their start."""
    card = ModelCard(
        kind="classifier",
        backbone=BackboneSpec(width=8, blocks=(1, 1)),
        image_shape=(1, 8, 8),
        classes=tuple("0123456789"),
        mean=(0.5,),
        std=(0.3,),
    )
    model = build_model(card, seed=seed)
    assert isinstance(model, Classifier)
    if double:
        model.double()
    model.train()
    model(IMAGES.to(model.head.weight.dtype))
    return model


def moment(step: int = 0, *, epoch: float = 0.0) -> Moment:
    return Moment(step=step, total=1000, epoch=epoch, lr=0.1)


def same(images: Tensor, generator: torch.Generator) -> Tensor:
    """No augmentation."""
    return images


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


def plain_pgd(objective: Callable[[Tensor], Tensor], images: Tensor, *, start: Tensor, steps: int) -> Tensor:
    """Steps of EPS / 4 up the objective inside the ball of radius EPS around images (N, C, H, W) in [0, 1]."""
    points = start
    for _ in range(steps):
        points = points.detach().requires_grad_()
        (slope,) = torch.autograd.grad(objective(points), points)
        points = (points + EPS / 4 * slope.sign()).clamp(images - EPS, images + EPS).clamp(0, 1)
    return points.detach()


def anywhere(images: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform in the ball of radius EPS around images (N, C, H, W), clamped to [0, 1]."""
    noise = 2 * torch.rand(images.shape, generator=generator, dtype=images.dtype) - 1
    return (images + EPS * noise).clamp(0, 1)


def plain_nt_xent(*views: Tensor, temperature: float = 0.5) -> Tensor:
    """NT-Xent by its definition, one pair after the other."""
    losses = []
    for a, one in enumerate(views):
        for b, other in enumerate(views):
            for image in range(len(one) if a != b else 0):
                below = sum(
                    (one[image] @ third[k] / temperature).exp()
                    for c, third in enumerate(views)
                    for k in range(len(one))
                    if (c, k) != (a, image)
                )
                losses.append(-((one[image] @ other[image] / temperature).exp() / below).log())
    return torch.stack(losses).mean()
