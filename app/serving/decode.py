"""Image files → pixels of the size and channels that a model takes. Nothing is trusted: every limit is checked first.

The rule, in order: the first frame of the file; its EXIF orientation applied; transparency dropped; converted to grey
(ITU-R 601 luma) or RGB as the model needs; 16-bit grey keeps its upper 8 bits. A picture of exactly the model's size
passes bit for bit; any other is scaled (bilinear, antialiased) to cover that size and cropped around its centre.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from models.data.pictures import CostlyPictureError, refuse_costly

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_MODES = {1: "L", 3: "RGB"}


@dataclass(frozen=True)
class ImageLimits:
    """What one image file may cost."""

    max_bytes: int
    max_pixels: int


class BadImageError(Exception):
    """The file cannot be used; the text says why and what would be accepted, ``reason`` is its kind for the metrics."""

    def __init__(self, detail: str, *, reason: str) -> None:
        super().__init__(detail)
        self.reason = reason


def supported_channels(channels: int) -> bool:
    """Whether picture files can be turned into images of so many channels."""
    return channels in _MODES


def decode_image(data: bytes, limits: ImageLimits, *, image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Pixels uint8 (C, H, W) of ``image_shape``; raises :class:`BadImageError`.

    The picture's size is read from its header and checked before a single pixel is decoded.
    """
    if not data:
        raise BadImageError("the file is empty", reason="empty")
    if len(data) > limits.max_bytes:
        raise BadImageError(
            f"the file has {len(data)} bytes; at most {limits.max_bytes} are accepted", reason="too_many_bytes"
        )
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            refuse_costly(image, data, max_pixels=limits.max_pixels)
            return _pixels(image, image_shape)
    except CostlyPictureError as error:
        raise BadImageError(str(error), reason="too_costly") from None
    except Image.DecompressionBombError:
        raise BadImageError(
            f"the picture is too large; at most {limits.max_pixels} pixels are accepted", reason="too_many_pixels"
        ) from None
    except UnidentifiedImageError:
        raise BadImageError(f"not an image file; accepted are {', '.join(FORMATS)}", reason="not_an_image") from None
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, IndexError and more on broken files.
        raise BadImageError(f"the image cannot be decoded: {error}", reason="damaged") from error


def _pixels(image: Image.Image, image_shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    channels, height, width = image_shape
    image.load()
    picture = _to_mode(ImageOps.exif_transpose(image), _MODES[channels])
    if picture.size != (width, height):
        picture = ImageOps.fit(picture, (width, height), method=Image.Resampling.BILINEAR)
    array = np.asarray(picture, dtype=np.uint8)
    return np.ascontiguousarray(array.reshape(height, width, channels).transpose(2, 0, 1))


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow clips such values at 255 on some paths; 16-bit grey is scaled instead.
        wide = np.asarray(image).clip(0, 65_535)
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    return image if image.mode == mode else image.convert(mode)
