"""Pictures made to do harm: pixels or a line that says why not, and never much memory or time for a small file."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from app.serving.decode import FORMATS, BadImageError, ImageLimits, decode_image
from models.data.pictures import MAX_SCANS
from tests.app.serving.test_decode import encoded, noise
from tests.memory import MIB, at_most

LIMITS = ImageLimits(max_bytes=20 << 20, max_pixels=50_000_000)
SHAPE = (3, 8, 8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(kind: bytes, data: bytes) -> bytes:
    """A good PNG with one chunk more before its pixels."""
    content = encoded(noise(16, 16, 3))
    start = content.index(b"IDAT") - 4
    return content[:start] + chunk(kind, data) + content[start:]


def gif(width: int, height: int) -> bytes:
    """A header of so many pixels with a frame of one."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b",\0\0\0\0\1\0\1\0\0\2\2D\1\0"
    return b"GIF89a" + screen + frame + b";"


def wide_frame(side: int) -> bytes:
    """A GIF of 1 × 1 pixel whose first frame is larger than its screen."""
    return gif(1, 1).replace(b",\0\0\0\0\1\0\1\0", b",\0\0\0\0" + struct.pack("<HH", side, side))


def bmp(width: int, height: int, *, compression: int = 0, data: bytes = b"") -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(data), 0, 0, 256, 0)
    palette = b"\0" * 1024
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + palette + data


def webp(width: int, height: int) -> bytes:
    """An extended header of so large a canvas around a small picture."""
    whole = encoded(noise(16, 16, 3), "WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    start = whole.index(b"VP8X") + 12
    return whole[:start] + canvas + whole[start + 6 :]


BOMBS = {
    "GIF": gif(65_535, 65_535),
    "GIF's frame": wide_frame(65_535),
    "BMP": bmp(30_000, 30_000),
    "BMP, top down": bmp(30_000, -30_000),
    "BMP, run lengths": bmp(7000, 7000, compression=1, data=b"\1\0\0\0" * 7000),
    "BMP, run lengths of 4 bits": bmp(7000, 7000, compression=2, data=b"\0\2\xff\xff" * 100),
    "WebP": webp(16_384, 16_384),
    "text": with_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * (80 << 20))),
    "profile": with_chunk(b"iCCP", b"a\0\0" + zlib.compress(b"\0" * (80 << 20))),
    "international text": with_chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(b"\0" * (80 << 20))),
    "EXIF": with_chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\x06\0\0\0" * 1000),
    "EXIF in a circle": with_chunk(b"eXIf", b"II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0"),
    "many texts": with_chunk(b"tEXt", b"a\0b").replace(chunk(b"tEXt", b"a\0b"), chunk(b"tEXt", b"a\0b") * 100_000),
    "a million frames": with_chunk(b"acTL", struct.pack(">II", 1_000_000, 0)),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_a_small_file_takes_little_memory(data: bytes) -> None:
    assert len(data) < 2 << 20
    with at_most(256 * MIB):
        decoded_or_refused(data)


def decoded_or_refused(data: bytes) -> bool:
    try:
        pixels = decode_image(data, LIMITS, image_shape=SHAPE)
    except BadImageError as error:
        assert 10 < len(str(error)) < 500
        return False
    assert (pixels.shape, pixels.dtype) == (SHAPE, np.uint8)
    return True


@pytest.mark.parametrize("name", ["GIF", "GIF's frame", "BMP", "BMP, top down", "WebP"])
def test_a_size_in_the_header_is_believed(name: str) -> None:
    with pytest.raises(BadImageError, match=r"too large|at most 50000000"):
        decode_image(BOMBS[name], LIMITS, image_shape=SHAPE)


@pytest.mark.parametrize("name", ["BMP, run lengths", "BMP, run lengths of 4 bits"])
def test_run_length_encoding_is_refused(name: str) -> None:
    with pytest.raises(BadImageError, match="run-length"):
        decode_image(BOMBS[name], LIMITS, image_shape=SHAPE)


def test_a_jpeg_of_many_scans_is_refused() -> None:
    """Each costs a pass over all pixels and a few bytes of the file."""
    whole = encoded(noise(64, 64, 3), "JPEG", progressive=True)
    assert decoded_or_refused(whole)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    with pytest.raises(BadImageError, match="scans"):
        decode_image(whole[:-2] + last * MAX_SCANS + whole[-2:], LIMITS, image_shape=SHAPE)


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16")
KINDS = {"1": "PNG", "CMYK": "JPEG", "YCbCr": "JPEG"}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_taken(mode: str, channels: int) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (20, 10)).save(buffer, KINDS.get(mode, "PNG"))
    assert decode_image(buffer.getvalue(), LIMITS, image_shape=(channels, 8, 8)).shape == (channels, 8, 8)


@pytest.mark.parametrize("size", [(1, 1), (1, 50_000), (50_000, 1), (2, 3)])
def test_every_size_is_taken(size: tuple[int, int]) -> None:
    assert decoded_or_refused(encoded(np.full((*size, 3), 77, np.uint8)))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_anywhere_gives_pixels_or_a_line(kind: str) -> None:
    whole = encoded(noise(24, 24, 3), kind)
    step = max(1, len(whole) // 150)
    taken = [decoded_or_refused(whole[:length]) for length in range(0, len(whole), step)]
    assert taken.count(False) > 0.8 * len(taken)


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "TGA", "PCX", "SGI", "ICO", "DDS", "JPEG2000", "PDF", "EPS"])
def test_other_formats_are_not_even_tried(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise(16, 16, 3)).save(buffer, kind)
    with pytest.raises(BadImageError, match="not an image file"):
        decode_image(buffer.getvalue(), LIMITS, image_shape=SHAPE)


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        b"<!DOCTYPE html><script>alert(1)</script>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) run\n",
        b"\x80\x04cos\nsystem\n(S'id'\ntR.",
    ],
)
def test_no_script_is_a_picture(data: bytes) -> None:
    with pytest.raises(BadImageError, match="not an image file"):
        decode_image(data, LIMITS, image_shape=SHAPE)


def polyglots() -> dict[str, bytes]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("../evil", "x")
    script = b"<script>alert(1)</script>"
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", script.decode())
    return {
        "JPEG and zip": encoded(noise(8, 8, 3), "JPEG") + archive.getvalue(),
        "PNG and zip": encoded(noise(8, 8, 3)) + archive.getvalue(),
        "PNG and HTML": encoded(noise(8, 8, 3), pnginfo=info) + b"<html>" + script,
        "GIF and JavaScript": encoded(noise(8, 8), "GIF") + b"=1;alert(1);",
        "JPEG and PHP": encoded(noise(8, 8, 3), "JPEG", comment=b"<?php system('id'); ?>"),
        "BMP and script": encoded(noise(8, 8, 3), "BMP") + script,
    }


@pytest.mark.parametrize("data", polyglots().values(), ids=polyglots())
def test_a_picture_that_is_also_something_else_is_a_picture(data: bytes) -> None:
    assert decoded_or_refused(data)
