"""A model whose batch normalization its convolutions do: the same answers, and untouched afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.attacks.folding import lightened
from models.backbones.spec import Backbone
from models.distributed import SynchronizedNorm
from models.methods.attacking import under_attack
from models.networks import ImageModel, build_model, frozen
from models.specs import BackboneSpec, ModelCard

IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def built(backbone: str) -> ImageModel:
    """With statistics and scales as a training leaves them, none of them 0 or 1; in train mode."""
    card = ModelCard(
        kind="classifier",
        backbone=BackboneSpec(name=backbone, width=8, blocks=(1, 1)),
        image_shape=(3, 16, 16),
        classes=("a", "b", "c"),
        mean=(0.5, 0.4, 0.3),
        std=(0.3, 0.2, 0.25),
    )
    return used(build_model(card))


def used(model: ImageModel) -> ImageModel:
    generator = torch.Generator().manual_seed(2)
    model = model.double().train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for value in (layer.weight.data, layer.bias.data) if layer.affine else ():
                value.add_(0.3 * torch.randn(value.shape, generator=generator, dtype=torch.float64))
    for _ in range(3):
        model(IMAGES)
    return model


def gradient(model: nn.Module) -> Tensor:
    points = IMAGES.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(model(points).logsumexp(dim=1).sum(), points)
    return found


def folds(model: nn.Module) -> int:
    """Layers of normalization that do nothing at the moment."""
    return sum(isinstance(layer, nn.BatchNorm2d) and "forward" in vars(layer) for layer in model.modules())


@pytest.mark.parametrize(
    ("backbone", "folded"),
    [
        ("resnet18", 6),  # all: the stem's, two a block, one of the second block's shortcut
        ("resnet50", 9),
        ("preactresnet18", 2),  # each block's second; the others do not come after a convolution
        ("preactresnet18-wong", 2),
        ("wideresnet28-10", 3),  # the stem's, too: its shortcut begins after normalization
    ],
)
def test_gradients_are_those_of_the_model_as_it_is(backbone: str, folded: int) -> None:
    model = built(backbone)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with frozen(model):
        expected = gradient(model)
    for _ in range(2):  # the second time from what the first remembered
        with under_attack(model):
            assert folds(model) == folded
            torch.testing.assert_close(gradient(model), expected, rtol=1e-10, atol=1e-12)
    assert folds(model) == 0
    assert model.training
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_the_weights_are_those_of_the_moment() -> None:
    model = built("resnet18")
    with under_attack(model):
        stale = gradient(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    with frozen(model):
        expected = gradient(model)
    with under_attack(model):
        fresh = gradient(model)
    torch.testing.assert_close(fresh, expected, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(fresh, stale)


def test_after_an_exception_the_model_is_itself() -> None:
    model = built("resnet18")
    with pytest.raises(ZeroDivisionError), under_attack(model):
        1 / 0  # noqa: B018
    assert folds(model) == 0 and model.training


def test_normalization_over_several_processes_is_folded_too() -> None:
    model = built("resnet18")
    with frozen(model):
        expected = gradient(model)
    backbone: Any = model.backbone
    backbone.bn = SynchronizedNorm.like(backbone.bn)
    with under_attack(model):
        assert folds(model) == 6
        torch.testing.assert_close(gradient(model), expected, rtol=1e-10, atol=1e-12)


def test_convolutions_with_a_bias_and_normalization_without_weights_are_folded_too() -> None:
    model = built("resnet18")
    backbone: Any = model.backbone
    backbone.stem = nn.Conv2d(3, 8, 3, padding=1)
    backbone.bn = nn.BatchNorm2d(8, affine=False, eps=0.1)
    model = used(model)
    with frozen(model):
        expected = gradient(model)
    with under_attack(model):
        assert folds(model) == 6
        torch.testing.assert_close(gradient(model), expected, rtol=1e-10, atol=1e-12)


def test_what_torch_compile_fuses_is_left_to_it() -> None:
    model = built("resnet18")
    model.backbone.compile()
    with under_attack(model):
        assert folds(model) == 0


class Odd(Backbone):
    """Layers that only look as if they could be folded."""

    feature_dim = 8

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.shared = nn.BatchNorm2d(8)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.active = Activated(8)

    def forward(self, images: Tensor) -> Tensor:
        convolved = self.first(images)
        out = self.norm(convolved) + convolved
        out = self.shared(self.twice(self.shared(self.twice(out))))
        features: Tensor = self.active(self.third(out)).mean(dim=(2, 3))
        return features


class Activated(nn.BatchNorm2d):
    """As timm has it."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


class Undecided(Odd):
    """Cannot be traced."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.mean() > 0 else -images)


@pytest.mark.parametrize("backbone", [Odd, Undecided])
def test_what_is_no_pair_stays_as_it_is(backbone: type[Backbone]) -> None:
    model = built("resnet18")
    model.backbone = backbone()
    model.head = nn.Linear(8, 3)
    used(model)
    with frozen(model):
        expected = gradient(model)
        with lightened(model):
            assert folds(model) == 0
            assert torch.equal(gradient(model), expected)
