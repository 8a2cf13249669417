"""PreActResNet-18 as in robust overfitting (Rice et al. 2020) and most adversarial training since."""

from models.backbones.preactresnet import PreActResNet
from models.backbones.spec import BACKBONES, BackboneEntry

BACKBONES.add(
    "preactresnet18",
    BackboneEntry(
        name="preactresnet18",
        title="PreActResNet-18 (shortcuts project the activated input, norm before the pooling)",
        width=64,
        blocks=(2, 2, 2, 2),
        build=lambda size: PreActResNet(size, activated_shortcut=True, last_norm=True),
        source="Rice et al. 2020, Overfitting in adversarially robust deep learning, arXiv 2002.11569; "
        "He et al. 2016, arXiv 1603.05027",
    ),
)
