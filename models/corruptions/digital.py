"""The digital corruptions of CIFAR-10-C: contrast, elastic transform, pixelation and JPEG."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from models.corruptions import operators
from models.corruptions.draws import Draws
from models.corruptions.spec import CORRUPTIONS, Corruption, strengths


def contrast(images: Tensor, draws: Draws, *, factor: float) -> Tensor:
    """See :class:`models.corruptions.spec.Corruption`."""
    del draws
    means = images.mean((2, 3), keepdim=True)
    return (images - means) * factor + means


def elastic_transform(images: Tensor, draws: Draws, *, alpha: float, sigma: float, affine: float) -> Tensor:
    """A random affine map, then random smooth displacements; see :class:`models.corruptions.spec.Corruption`.

    The three lengths are shares of the image's shorter side, at any size.
    """
    height, width = images.shape[2:]
    side = min(height, width)
    moved = _affine(images, draws.uniform(3, 2, low=-affine * side, high=affine * side))
    if alpha == 0:
        return moved
    down = operators.gaussian_matrix(height, sigma=sigma * side, mode="reflect", truncate=3.0)
    across = operators.gaussian_matrix(width, sigma=sigma * side, mode="reflect", truncate=3.0)
    bends = alpha * side * (down @ draws.uniform(2, height, width, low=-1, high=1) @ across.T)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    points = torch.stack([columns + bends[:, 0], rows + bends[:, 1]], dim=-1)
    # scipy's border "reflect", which repeats the border pixel: a reflection about the border's outer edge.
    grid = (2 * points + 1) / torch.tensor([width, height]) - 1
    return functional.grid_sample(moved, grid, padding_mode="reflection", align_corners=False)


def _affine(images: Tensor, shifts: Tensor) -> Tensor:
    """Map three points around the middle to points ``shifts`` (N, 3, 2) away, as (x, y) in pixels, bilinearly."""
    height, width = images.shape[2:]
    reach = min(height, width) // 3
    corners = torch.tensor([[reach, reach], [reach, -reach], [-reach, -reach]], dtype=torch.float64)
    before = torch.tensor([width // 2, height // 2]) + corners
    ones = torch.ones(len(images), 3, 1, dtype=torch.float64)
    back = torch.linalg.solve(torch.cat([before + shifts, ones], dim=2), before.expand(len(images), -1, -1))
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    here = torch.stack([columns, rows, torch.ones_like(rows)], dim=-1).double()
    points = here.flatten(0, 1) @ back
    # OpenCV's BORDER_REFLECT_101, which does not repeat the border pixel: a reflection about its centre.
    grid = (2 * points / torch.tensor([width - 1, height - 1]) - 1).float().reshape(-1, height, width, 2)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=True)


def pixelate(images: Tensor, draws: Draws, *, factor: float) -> Tensor:
    """See :class:`models.corruptions.spec.Corruption`."""
    del draws

    def resize(picture: Image.Image) -> Image.Image:
        small = (int(picture.width * factor), int(picture.height * factor))
        return picture.resize(small, Image.Resampling.BOX).resize(picture.size, Image.Resampling.BOX)

    return _through_pillow(images, resize)


def jpeg_compression(images: Tensor, draws: Draws, *, quality: float) -> Tensor:
    """See :class:`models.corruptions.spec.Corruption`."""
    del draws

    def compress(picture: Image.Image) -> Image.Image:
        file = BytesIO()
        picture.save(file, "JPEG", quality=int(quality))
        return Image.open(file)

    return _through_pillow(images, compress)


def _through_pillow(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Each of (N, C, H, W) as 8-bit pictures through ``change``: one of three channels, else one a channel."""
    pixels = (images * 255).round().byte()
    colours = images.shape[1] == 3
    pictures = pixels.permute(0, 2, 3, 1) if colours else pixels.flatten(0, 1)
    changed = np.stack([np.asarray(change(Image.fromarray(picture))) for picture in pictures.contiguous().numpy()])
    result = torch.from_numpy(changed).float() / 255
    return result.permute(0, 3, 1, 2).contiguous() if colours else result.reshape(images.shape)


CORRUPTIONS.add(
    "contrast",
    Corruption(
        name="contrast",
        title="Contrast",
        group="digital",
        run=contrast,
        strengths=strengths(factor=(0.75, 0.5, 0.4, 0.3, 0.15)),
        formula="(x − mean)·`factor` + mean, the mean of each channel",
    ),
)
CORRUPTIONS.add(
    "elastic_transform",
    Corruption(
        name="elastic_transform",
        title="Elastic transform",
        group="digital",
        run=elastic_transform,
        strengths=strengths(
            alpha=(0, 0.05, 0.08, 0.1, 0.1), sigma=(0, 0.2, 0.06, 0.04, 0.03), affine=(0.08, 0.07, 0.06, 0.05, 0.03)
        ),
        formula="three points moved by U(−`affine`, `affine`) as an affine map, then displacements U(−1, 1) smoothed "
        "by a Gaussian of `sigma`, times `alpha`; in shares of the shorter side",
    ),
)
CORRUPTIONS.add(
    "pixelate",
    Corruption(
        name="pixelate",
        title="Pixelate",
        group="digital",
        run=pixelate,
        strengths=strengths(factor=(0.95, 0.9, 0.85, 0.75, 0.65)),
        formula="box filter to `factor` of the size, and back",
    ),
)
CORRUPTIONS.add(
    "jpeg_compression",
    Corruption(
        name="jpeg_compression",
        title="JPEG compression",
        group="digital",
        run=jpeg_compression,
        strengths=strengths(quality=(80, 65, 58, 50, 40)),
        formula="JPEG of `quality`, chroma halved, written and read by Pillow",
    ),
)
