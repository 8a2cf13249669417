"""Pre-activation residual networks for small images (He et al. 2016, arXiv 1603.05027).

The literature has three networks of this name. They differ in what the projecting shortcut takes and in whether the
last features are normalized; the first difference leaves no trace in the names or shapes of the weights, so each is an
entry of its own. Names of submodules are those of kuangliu/pytorch-cifar ``models/preact_resnet.py``.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from models.backbones.layout import PublishedLayout
from models.backbones.spec import Backbone, BackboneSize


class PreActBlock(nn.Module):
    """Norm, ReLU, 3×3 convolution, twice; the shortcut projects where the shapes differ.

    ``activated_shortcut``: the projection takes the block's input after norm and ReLU, else as it comes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, activated_shortcut: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        projects = stride != 1 or inputs != outputs
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)) if projects else nn.Identity()
        )
        self.activated_shortcut = activated_shortcut and projects

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.relu(self.bn1(x))
        out = functional.relu(self.bn2(self.conv1(activated)))
        total: Tensor = self.shortcut(activated if self.activated_shortcut else x) + self.conv2(out)
        return total


class PreActResNet(Backbone):
    """3×3 stem, one to four stages of pre-activation blocks, global average pooling.

    Stage i has ``width``·2^i channels and halves the resolution, the first excepted. ``last_norm``: norm and ReLU
    before the pooling.
    """

    published = PublishedLayout(heads=("linear", "fc"))

    def __init__(self, size: BackboneSize, *, activated_shortcut: bool, last_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(size.in_channels, size.width, 3, stride=size.stem_stride, padding=1, bias=False)
        channels = size.width
        self.stages = [f"layer{index + 1}" for index in range(len(size.blocks))]
        for index, (name, depth) in enumerate(zip(self.stages, size.blocks, strict=True)):
            layers: list[nn.Module] = []
            for position in range(depth):
                stride = 2 if index > 0 and position == 0 else 1
                width = size.width * 2**index
                layers.append(PreActBlock(channels, width, stride, activated_shortcut=activated_shortcut))
                channels = width
            self.add_module(name, nn.Sequential(*layers))
        self.bn = nn.BatchNorm2d(channels) if last_norm else None
        self.feature_dim = channels

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.conv1(images)
        for name in self.stages:
            out = self.get_submodule(name)(out)
        if self.bn is not None:
            out = functional.relu(self.bn(out))
        return out.mean(dim=(2, 3))
