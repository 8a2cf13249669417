"""WideResNet-28-10 with ReLU."""

from models.backbones.spec import BACKBONES, BackboneEntry
from models.backbones.wideresnet import WideResNet

BACKBONES.add(
    "wideresnet28-10",
    BackboneEntry(
        name="wideresnet28-10",
        title="WideResNet-28-10, ReLU, as in TRADES",
        width=160,
        blocks=(4, 4, 4),
        build=WideResNet,
        source="Zagoruyko & Komodakis 2016, Wide residual networks, arXiv 1605.07146; Zhang et al. 2019, arXiv "
        "1901.08573",
    ),
)
