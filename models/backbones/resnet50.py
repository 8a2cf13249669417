"""ResNet-50 with a CIFAR stem."""

from models.backbones.resnet import Bottleneck, resnet_builder
from models.backbones.spec import BACKBONES, BackboneEntry

BLOCKS = (3, 4, 6, 3)

BACKBONES.add(
    "resnet50",
    BackboneEntry(
        name="resnet50",
        title="ResNet-50 (bottleneck blocks 3,4,6,3, 3×3 stem)",
        blocks=BLOCKS,
        build=resnet_builder(Bottleneck, BLOCKS),
        source="He et al. 2016, Deep residual learning for image recognition, arXiv 1512.03385",
    ),
)
