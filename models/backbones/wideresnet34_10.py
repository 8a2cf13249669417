"""WideResNet-34-10 with ReLU."""

from models.backbones.spec import BACKBONES, BackboneEntry
from models.backbones.wideresnet import WideResNet

BACKBONES.add(
    "wideresnet34-10",
    BackboneEntry(
        name="wideresnet34-10",
        title="WideResNet-34-10, ReLU, as in TRADES",
        width=160,
        blocks=(5, 5, 5),
        build=WideResNet,
        source="Zagoruyko & Komodakis 2016, Wide residual networks, arXiv 1605.07146; Zhang et al. 2019, arXiv "
        "1901.08573",
    ),
)
