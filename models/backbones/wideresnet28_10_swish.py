"""WideResNet-28-10 with Swish, the small one of DeepMind's robust models."""

from models.backbones.deepmind_wideresnet import DeepMindWideResNet
from models.backbones.spec import BACKBONES, BackboneEntry

BACKBONES.add(
    "wideresnet28-10-swish",
    BackboneEntry(
        name="wideresnet28-10-swish",
        title="WideResNet-28-10, Swish (SiLU), as DeepMind's",
        width=160,
        blocks=(4, 4, 4),
        build=DeepMindWideResNet,
        source="Gowal et al. 2020, Uncovering the limits of adversarial training, arXiv 2010.03593",
    ),
)
