"""PreActResNet-18 of fast adversarial training (Wong et al. 2020)."""

from models.backbones.preactresnet import PreActResNet
from models.backbones.spec import BACKBONES, BackboneEntry

BACKBONES.add(
    "preactresnet18-wong",
    BackboneEntry(
        name="preactresnet18-wong",
        title="PreActResNet-18 of fast adversarial training (shortcuts project the bare input, no norm before the "
        "pooling)",
        width=64,
        blocks=(2, 2, 2, 2),
        build=lambda size: PreActResNet(size, activated_shortcut=False, last_norm=False),
        source="Wong et al. 2020, Fast is better than free, arXiv 2001.03994, as in RobustBench (also "
        "Andriushchenko2020Understanding)",
    ),
)
