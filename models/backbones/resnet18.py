"""ResNet-18 with a CIFAR stem."""

from models.backbones.resnet import BasicBlock, resnet_builder
from models.backbones.spec import BACKBONES, BackboneEntry

BLOCKS = (2, 2, 2, 2)

BACKBONES.add(
    "resnet18",
    BackboneEntry(
        name="resnet18",
        title="ResNet-18 (basic blocks 2,2,2,2, 3×3 stem)",
        blocks=BLOCKS,
        build=resnet_builder(BasicBlock, BLOCKS),
        source="He et al. 2016, Deep residual learning for image recognition, arXiv 1512.03385",
    ),
)
