"""Wide residual networks (Zagoruyko & Komodakis 2016, arXiv 1605.07146) as TRADES has them, with ReLU.

Names of submodules are those of yaodongyu/TRADES ``models/wideresnet.py``, which is RobustBench's ``WideResNet``.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from models.backbones.layout import PublishedLayout
from models.backbones.spec import Backbone, BackboneSize

STEM_WIDTH = 16


class WideBlock(nn.Module):
    """Norm, ReLU, 3×3 convolution, twice; where the width changes, the shortcut projects the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        projects = stride != 1 or inputs != outputs
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.relu(self.bn1(x))
        out = functional.relu(self.bn2(self.conv1(activated)))
        total: Tensor = (x if self.convShortcut is None else self.convShortcut(activated)) + self.conv2(out)
        return total


class _Stage(nn.Module):
    """Blocks under the name that the published files give them."""

    def __init__(self, blocks: list[WideBlock]) -> None:
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(Backbone):
    """3×3 stem of 16 channels, stages of wide blocks, norm, ReLU, global average pooling.

    Stage i has ``width``·2^i channels, where ``width`` is 16 times the widening factor, and halves the resolution, the
    first excepted. WRN-d-k has three stages of (d − 4)/6 blocks and width 16·k.
    """

    # TRADES' network has a second first stage that its forward never calls; most published files carry it.
    published = PublishedLayout(heads=("fc", "linear"), unused=("sub_block1.",))

    def __init__(self, size: BackboneSize) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(size.in_channels, STEM_WIDTH, 3, stride=size.stem_stride, padding=1, bias=False)
        channels = STEM_WIDTH
        self.stages = [f"block{index + 1}" for index in range(len(size.blocks))]
        for index, (name, depth) in enumerate(zip(self.stages, size.blocks, strict=True)):
            width = size.width * 2**index
            first = WideBlock(channels, width, 2 if index > 0 else 1)
            self.add_module(name, _Stage([first, *(WideBlock(width, width, 1) for _ in range(depth - 1))]))
            channels = width
        self.bn1 = nn.BatchNorm2d(channels)
        self.feature_dim = channels

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.conv1(images)
        for name in self.stages:
            out = self.get_submodule(name)(out)
        return functional.relu(self.bn1(out)).mean(dim=(2, 3))
