"""Residual networks for small images (He et al. 2016, arXiv 1512.03385), of any width and list of blocks.

The stem is a 3×3 convolution without pooling, as in every CIFAR table of the robustness literature, so that a
32×32 image keeps its resolution in the first stage. Blocks follow torchvision's (post-activation, projection shortcut).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from models.backbones.layout import PublishedLayout
from models.backbones.spec import Backbone, BackboneSize

PUBLISHED = PublishedLayout(
    heads=("linear", "fc"),
    renames=(("conv1.", "stem."), ("bn1.", "bn."), *((f"layer{i + 1}.", f"stages.{i}.") for i in range(4))),
)
"""kuangliu/pytorch-cifar ``models/resnet.py``, also RobustBench's ``ResNet``."""


def _convolution(inputs: int, outputs: int, *, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Identity where the shapes agree, else the paper's option B: a strided 1×1 projection."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(_convolution(inputs, outputs, kernel=1, stride=stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut (ResNet-18, -34)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(inputs, width, kernel=3, stride=stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, kernel=3)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions around a shortcut, four times as wide at its ends (ResNet-50)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = _convolution(inputs, width, kernel=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, kernel=3, stride=stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, outputs, kernel=1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return functional.relu(out + self.shortcut(x))


class ResNet(Backbone):
    """3×3 stem, one to four stages of residual blocks, global average pooling.

    Stage i has ``width``·2^i channels (times the block's expansion) and halves the resolution, the first excepted.
    """

    published = PUBLISHED

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], size: BackboneSize) -> None:
        super().__init__()
        self.stem = _convolution(size.in_channels, size.width, kernel=3, stride=size.stem_stride)
        self.bn = nn.BatchNorm2d(size.width)
        channels = size.width
        stages: list[nn.Module] = []
        for index, depth in enumerate(size.blocks):
            stage_width = size.width * 2**index
            layers: list[nn.Module] = []
            for position in range(depth):
                stride = 2 if index > 0 and position == 0 else 1
                layers.append(block(channels, stage_width, stride))
                channels = stage_width * block.expansion
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.feature_dim = channels

    def forward(self, images: Tensor) -> Tensor:
        out = functional.relu(self.bn(self.stem(images)))
        features: Tensor = self.stages(out).mean(dim=(2, 3))
        return features
