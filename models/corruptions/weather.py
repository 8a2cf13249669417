"""The weather of CIFAR-10-C: snow, frost, fog and brightness."""

from __future__ import annotations

import torch
from torch import Tensor

from models.corruptions import operators
from models.corruptions.draws import Draws
from models.corruptions.spec import CORRUPTIONS, Corruption, strengths

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601


def luminance(images: Tensor) -> Tensor:
    """Grey value (N, 1, H, W): the weighted sum of three channels, the mean of any other number of them."""
    if images.shape[1] != len(_LUMA):
        return images.mean(1, keepdim=True)
    return (images * torch.tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)


def snow(
    images: Tensor,
    draws: Draws,
    *,
    mean: float,
    std: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    visibility: float,
) -> Tensor:
    """See :class:`models.corruptions.spec.Corruption`."""
    scale = operators.length_scale(images)
    flakes = mean + std * draws.normal(1, *images.shape[2:])
    flakes = operators.clipped_zoom(flakes, zoom * scale)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    angles = draws.uniform(low=-135, high=-45)
    flakes = operators.motion_blur(flakes, angles, radius=radius * scale, sigma=sigma * scale)
    whitened = torch.maximum(images, 1.5 * luminance(images) + 0.5)
    return visibility * images + (1 - visibility) * whitened + flakes + flakes.rot90(2, (2, 3))


def frost(images: Tensor, draws: Draws, *, visibility: float, ice: float) -> Tensor:
    """The image mixed with a texture of ice; see :class:`models.corruptions.spec.Corruption`.

    The original cuts the texture from six photographs of frost. Here it is procedural: bright ridges where a plasma
    field crosses its middle, over a dim, coarser field. So the figures are not comparable to published ones.
    """
    height, width = images.shape[2:]
    veins = 1 - (2 * operators.plasma(draws, height=height, width=width, decay=1.6) - 1).abs()
    haze = operators.plasma(draws, height=height, width=width, decay=3.0)
    return visibility * images + ice * (0.6 * veins.pow(3) + 0.4 * haze)


def fog(images: Tensor, draws: Draws, *, thickness: float, decay: float) -> Tensor:
    """See :class:`models.corruptions.spec.Corruption`."""
    brightest = images.amax((1, 2, 3), keepdim=True)
    field = operators.plasma(draws, height=images.shape[2], width=images.shape[3], decay=decay)
    return (images + thickness * field) * brightest / (brightest + thickness)


def brightness(images: Tensor, draws: Draws, *, shift: float) -> Tensor:
    """See :class:`models.corruptions.spec.Corruption`.

    With hue and saturation kept, a change of the value V (the largest channel) scales all channels by V'/V; black has
    no hue and becomes grey.
    """
    del draws
    value = images.amax(1, keepdim=True)
    brighter = (value + shift).clamp(0, 1)
    return torch.where(value > 0, images * (brighter / value.clamp(min=1e-6)), brighter)


CORRUPTIONS.add(
    "snow",
    Corruption(
        name="snow",
        title="Snow",
        group="weather",
        run=snow,
        strengths=strengths(
            mean=(0.1, 0.1, 0.15, 0.25, 0.3),
            std=(0.2, 0.2, 0.3, 0.3, 0.3),
            zoom=(1, 1, 1.75, 2.25, 1.25),
            threshold=(0.6, 0.5, 0.55, 0.6, 0.65),
            radius=(8, 10, 10, 12, 14),
            sigma=(3, 4, 4, 6, 12),
            visibility=(0.95, 0.9, 0.9, 0.85, 0.8),
        ),
        formula="x whitened by 1 − `visibility`, plus flakes and flakes turned by 180°: noise N(`mean`, `std`²) "
        "magnified by `zoom`, zero below `threshold`, with a motion blur at an angle from U(−135°, −45°)",
    ),
)
CORRUPTIONS.add(
    "frost",
    Corruption(
        name="frost",
        title="Frost",
        group="weather",
        run=frost,
        strengths=strengths(visibility=(1, 1, 0.9, 0.85, 0.75), ice=(0.2, 0.3, 0.4, 0.4, 0.45)),
        formula="`visibility`·x + `ice`·texture",
        note="procedural texture in place of the original's photographs of frost: not comparable to published figures",
    ),
)
CORRUPTIONS.add(
    "fog",
    Corruption(
        name="fog",
        title="Fog",
        group="weather",
        run=fog,
        strengths=strengths(thickness=(0.2, 0.5, 0.75, 1, 1.5), decay=(3, 3, 2.5, 2, 1.75)),
        formula="(x + `thickness`·plasma)·max x / (max x + `thickness`), plasma by diamond-square with `decay` a scale",
    ),
)
CORRUPTIONS.add(
    "brightness",
    Corruption(
        name="brightness",
        title="Brightness",
        group="weather",
        run=brightness,
        strengths=strengths(shift=(0.05, 0.1, 0.15, 0.2, 0.3)),
        formula="V + `shift` in HSV",
    ),
)
