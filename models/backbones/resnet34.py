"""ResNet-34 with a CIFAR stem."""

from models.backbones.resnet import BasicBlock, resnet_builder
from models.backbones.spec import BACKBONES, BackboneEntry

BLOCKS = (3, 4, 6, 3)

BACKBONES.add(
    "resnet34",
    BackboneEntry(
        name="resnet34",
        title="ResNet-34 (basic blocks 3,4,6,3, 3×3 stem)",
        blocks=BLOCKS,
        build=resnet_builder(BasicBlock, BLOCKS),
        source="He et al. 2016, Deep residual learning for image recognition, arXiv 1512.03385",
    ),
)
