"""ResNet-18 with a CIFAR stem."""

from models.backbones.resnet import BasicBlock, ResNet
from models.backbones.spec import BACKBONES, BackboneEntry

BACKBONES.add(
    "resnet18",
    BackboneEntry(
        name="resnet18",
        title="ResNet-18 (basic blocks 2,2,2,2, 3×3 stem)",
        width=64,
        blocks=(2, 2, 2, 2),
        build=lambda size: ResNet(BasicBlock, size),
        source="He et al. 2016, Deep residual learning for image recognition, arXiv 1512.03385",
    ),
)
