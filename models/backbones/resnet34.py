"""ResNet-34 with a CIFAR stem."""

from models.backbones.resnet import BasicBlock, ResNet
from models.backbones.spec import BACKBONES, BackboneEntry

BACKBONES.add(
    "resnet34",
    BackboneEntry(
        name="resnet34",
        title="ResNet-34 (basic blocks 3,4,6,3, 3×3 stem)",
        width=64,
        blocks=(3, 4, 6, 3),
        build=lambda size: ResNet(BasicBlock, size),
        source="He et al. 2016, Deep residual learning for image recognition, arXiv 1512.03385",
    ),
)
