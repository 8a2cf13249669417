"""What is checked in a stranger's picture between the reading of its header and the decoding of its pixels."""

from __future__ import annotations

from PIL import Image

MAX_SCANS = 100
"""Scans of a JPEG. A progressive one has about ten; a few bytes make each more, and each costs a pass over it all."""
_RUN_LENGTHS = (1, 2)  # BI_RLE8 and BI_RLE4 of Windows' BITMAPINFOHEADER
_START_OF_SCAN = b"\xff\xda"


class CostlyPictureError(ValueError):
    """A picture that takes more work than its use is worth; the message says what would be accepted."""


def refuse_costly(image: Image.Image, data: bytes, *, max_pixels: int) -> None:
    """Raise :class:`CostlyPictureError` for an opened, not yet decoded picture ``image`` of the file ``data``.

    Its size is that of the header. Refused too: the ways of coding by which a small file keeps a processor busy.
    """
    width, height = image.size
    if width * height > max_pixels:
        raise CostlyPictureError(
            f"the picture is {width}×{height} = {width * height} pixels; at most {max_pixels} are accepted"
        )
    # Inside coded data FF is always followed by 00 or a restart: the mark stands for a scan, but in a thumbnail.
    if image.format == "JPEG" and data.count(_START_OF_SCAN) > MAX_SCANS:
        raise CostlyPictureError(f"the JPEG has more than {MAX_SCANS} scans; save it anew")
    # Pillow decodes these in Python, byte by byte.
    if image.format == "BMP" and image.info.get("compression") in _RUN_LENGTHS:
        raise CostlyPictureError("the BMP is run-length encoded; save it uncompressed, or as PNG")
