"""Wide residual networks as DeepMind's robust models have them: Swish (SiLU) and TensorFlow's padding.

Names of submodules are those of deepmind-research ``adversarial_robustness/pytorch/model_zoo.py``, which is
RobustBench's ``DMWideResNet``.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from models.backbones.layout import PublishedLayout
from models.backbones.spec import Backbone, BackboneSize

STEM_WIDTH = 16


def _pad_same(x: Tensor, *, stride: int) -> Tensor:
    """TensorFlow's SAME padding for a 3×3 kernel: with stride 2, an even side is padded at its far end alone."""
    if stride == 1:
        return functional.pad(x, (1, 1, 1, 1))
    return functional.pad(x, (x.shape[3] % 2, 1, x.shape[2] % 2, 1))


class SwishBlock(nn.Module):
    """Norm, Swish, 3×3 convolution, twice; where the width changes, the shortcut projects the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_0 = nn.Conv2d(inputs, outputs, 3, stride=stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_1 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        projects = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.silu(self.batchnorm_0(x))
        out = self.conv_0(_pad_same(activated, stride=self.stride))
        out = functional.silu(self.batchnorm_1(out))
        total: Tensor = (x if self.shortcut is None else self.shortcut(activated)) + self.conv_1(out)
        return total


class _Stage(nn.Module):
    """Blocks under the name that the published files give them."""

    def __init__(self, blocks: list[SwishBlock]) -> None:
        super().__init__()
        self.block = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class DeepMindWideResNet(Backbone):
    """3×3 stem of 16 channels, stages of wide Swish blocks, norm, Swish, global average pooling.

    Sizes as in :class:`models.backbones.wideresnet.WideResNet`.
    """

    published = PublishedLayout(heads=("logits",))

    def __init__(self, size: BackboneSize) -> None:
        super().__init__()
        self.init_conv = nn.Conv2d(size.in_channels, STEM_WIDTH, 3, stride=size.stem_stride, padding=1, bias=False)
        channels = STEM_WIDTH
        stages: list[nn.Module] = []
        for index, depth in enumerate(size.blocks):
            width = size.width * 2**index
            first = SwishBlock(channels, width, 2 if index > 0 else 1)
            stages.append(_Stage([first, *(SwishBlock(width, width, 1) for _ in range(depth - 1))]))
            channels = width
        self.layer = nn.Sequential(*stages)
        self.batchnorm = nn.BatchNorm2d(channels)
        self.feature_dim = channels

    def forward(self, images: Tensor) -> Tensor:
        out = self.layer(self.init_conv(images))
        return functional.silu(self.batchnorm(out)).mean(dim=(2, 3))
