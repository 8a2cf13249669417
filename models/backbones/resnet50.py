"""ResNet-50 with a CIFAR stem."""

from models.backbones.resnet import Bottleneck, ResNet
from models.backbones.spec import BACKBONES, BackboneEntry

BACKBONES.add(
    "resnet50",
    BackboneEntry(
        name="resnet50",
        title="ResNet-50 (bottleneck blocks 3,4,6,3, 3×3 stem)",
        width=64,
        blocks=(3, 4, 6, 3),
        build=lambda size: ResNet(Bottleneck, size),
        source="He et al. 2016, Deep residual learning for image recognition, arXiv 1512.03385",
    ),
)
