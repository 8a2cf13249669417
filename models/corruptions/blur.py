"""The blurs of CIFAR-10-C: defocus, frosted glass, motion and zoom."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.corruptions import operators
from models.corruptions.draws import Draws
from models.corruptions.spec import CORRUPTIONS, Corruption, strengths


def disk(*, radius: float, antialias: float) -> Tensor:
    """Kernel (K, K) of an out-of-focus lens: a disk of ``radius`` pixels, softened by a Gaussian of ``antialias``.

    The Gaussian has 3 taps a side up to a radius of 8, else 5. The kernel is float64 and sums to 1.
    """
    soft = 1 if radius <= 8 else 2
    reach = int(radius) + soft
    line = torch.arange(-reach, reach + 1, dtype=torch.float64)
    inside = (line[:, None].square() + line.square() <= radius**2).double()
    taps = torch.exp(-torch.arange(-soft, soft + 1, dtype=torch.float64).square() / (2 * antialias**2))
    softening = taps[:, None] * taps
    kernel = functional.conv2d(inside[None, None], softening[None, None], padding=soft)[0, 0]
    return kernel / kernel.sum()


def defocus_blur(images: Tensor, draws: Draws, *, radius: float, antialias: float) -> Tensor:
    """See :class:`models.corruptions.spec.Corruption`."""
    del draws
    kernel = disk(radius=radius * operators.length_scale(images), antialias=antialias)
    reach = len(kernel) // 2
    height, width = images.shape[2:]
    padded = functional.pad(images, (reach,) * 4, mode="reflect")
    # Tap by tap: a library's convolution rounds a batch of one differently, which can show in 8 bits.
    blurred = torch.zeros_like(images)
    for down, across in kernel.nonzero().tolist():
        tap = padded[:, :, down : down + height, across : across + width]
        blurred.add_(tap, alpha=kernel[down, across].item())
    return blurred


def glass_blur(images: Tensor, draws: Draws, *, sigma: float, max_delta: float, iterations: float) -> Tensor:
    """Blur, let pixels change places with near ones, blur; see :class:`models.corruptions.spec.Corruption`.

    The original means to swap a pixel with the one up to ``max_delta`` away, from the lower right corner on. Both
    sides of its swap are numpy views, so it copies the near pixel instead, and CIFAR-10-C is made of copies; as are
    these images. With ``max_delta`` 1 the copied pixel is never one that was copied to before in the same pass.
    """
    scale = operators.length_scale(images)
    delta = round(max_delta * scale)
    height, width = images.shape[2:]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    moving = (rows > delta) & (rows <= height - delta) & (columns > delta) & (columns <= width - delta)
    glass = operators.gaussian_blur(images, sigma=sigma * scale)
    for _ in range(int(iterations)):
        # As the original's randint, the offsets leave out +max_delta.
        offsets = draws.uniform(2, height, width, low=-delta, high=delta).floor().long() * moving
        glass = operators.shifted(glass, offsets[:, 0], offsets[:, 1])
    return operators.gaussian_blur(glass, sigma=sigma * scale)


def motion_blur(images: Tensor, draws: Draws, *, radius: float, sigma: float) -> Tensor:
    """See :class:`models.corruptions.spec.Corruption`."""
    scale = operators.length_scale(images)
    angles = draws.uniform(low=-45, high=45)
    return operators.motion_blur(images, angles, radius=radius * scale, sigma=sigma * scale)


def zoom_blur(images: Tensor, draws: Draws, *, largest: float) -> Tensor:
    """See :class:`models.corruptions.spec.Corruption`.

    A zoom that adds less than half a pixel to the side leaves the image as it is, as in the original; so severity 1
    changes nothing in images of 8 pixels.
    """
    del draws
    factors = np.arange(1, largest, 0.01).tolist()
    total = images.clone()
    for factor in factors:
        total += operators.clipped_zoom(images, factor)
    return total / (len(factors) + 1)


CORRUPTIONS.add(
    "defocus_blur",
    Corruption(
        name="defocus_blur",
        title="Defocus blur",
        group="blur",
        run=defocus_blur,
        strengths=strengths(radius=(0.3, 0.4, 0.5, 1, 1.5), antialias=(0.4, 0.5, 0.6, 0.2, 0.1)),
        formula="x convolved with a disk of `radius` pixels that a 3×3 Gaussian of `antialias` pixels softens",
    ),
)
CORRUPTIONS.add(
    "glass_blur",
    Corruption(
        name="glass_blur",
        title="Glass blur",
        group="blur",
        run=glass_blur,
        strengths=strengths(sigma=(0.05, 0.25, 0.4, 0.25, 0.4), max_delta=(1, 1, 1, 1, 1), iterations=(1, 1, 1, 2, 2)),
        formula="Gaussian blur of `sigma` pixels, each pixel replaced by one up to `max_delta` away, `iterations` "
        "times, and the blur again",
    ),
)
CORRUPTIONS.add(
    "motion_blur",
    Corruption(
        name="motion_blur",
        title="Motion blur",
        group="blur",
        run=motion_blur,
        strengths=strengths(radius=(6, 6, 6, 8, 9), sigma=(1, 1.5, 2, 2, 2.5)),
        formula="a one-sided Gaussian streak of `sigma` pixels, 2·`radius` long, at an angle from U(−45°, 45°)",
    ),
)
CORRUPTIONS.add(
    "zoom_blur",
    Corruption(
        name="zoom_blur",
        title="Zoom blur",
        group="blur",
        run=zoom_blur,
        strengths=strengths(largest=(1.06, 1.11, 1.16, 1.21, 1.26)),
        formula="mean of x and of x magnified by 1, 1.01, … below `largest`",
    ),
)
