"""PreActResNet-18 of kuangliu/pytorch-cifar."""

from models.backbones.preactresnet import PreActResNet
from models.backbones.spec import BACKBONES, BackboneEntry

BACKBONES.add(
    "preactresnet18-kuangliu",
    BackboneEntry(
        name="preactresnet18-kuangliu",
        title="PreActResNet-18 of pytorch-cifar (shortcuts project the activated input, no norm before the pooling)",
        width=64,
        blocks=(2, 2, 2, 2),
        build=lambda size: PreActResNet(size, activated_shortcut=True, last_norm=False),
        source="github.com/kuangliu/pytorch-cifar; He et al. 2016, arXiv 1603.05027",
    ),
)
