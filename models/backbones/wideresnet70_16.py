"""WideResNet-70-16 with Swish: the published robust networks of this size are DeepMind's and follow-ups in its code."""

from models.backbones.deepmind_wideresnet import DeepMindWideResNet
from models.backbones.spec import BACKBONES, BackboneEntry

BACKBONES.add(
    "wideresnet70-16",
    BackboneEntry(
        name="wideresnet70-16",
        title="WideResNet-70-16, Swish (SiLU), as DeepMind's",
        width=256,
        blocks=(11, 11, 11),
        build=DeepMindWideResNet,
        source="Gowal et al. 2020, Uncovering the limits of adversarial training, arXiv 2010.03593",
    ),
)
