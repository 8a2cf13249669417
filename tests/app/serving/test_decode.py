"""Decoding, against Pillow and numpy used by hand, and against files made to do harm."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from app.serving.decode import BadImageError, ImageLimits, decode_image

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=1_000_000)


def encoded(pixels: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF"])
def test_a_grey_picture_of_the_models_size_passes_bit_for_bit(kind: str) -> None:
    pixels = noise(8, 8)
    assert np.array_equal(decode_image(encoded(pixels, kind), LIMITS, image_shape=(1, 8, 8)), pixels[None])


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_a_colour_picture_of_the_models_size_passes_bit_for_bit(kind: str, options: dict[str, Any]) -> None:
    pixels = noise(5, 7, 3)
    decoded = decode_image(encoded(pixels, kind, **options), LIMITS, image_shape=(3, 5, 7))
    assert np.array_equal(decoded, pixels.transpose(2, 0, 1))


def test_grey_becomes_rgb_and_rgb_becomes_luma() -> None:
    grey, colour = noise(4, 4), noise(4, 4, 3)
    assert np.array_equal(decode_image(encoded(grey), LIMITS, image_shape=(3, 4, 4)), np.stack([grey] * 3))
    luma = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(decode_image(encoded(colour), LIMITS, image_shape=(1, 4, 4))[0] - luma).max() <= 1


def test_sixteen_bit_grey_keeps_its_upper_bits() -> None:
    wide = np.random.default_rng(0).integers(0, 65_536, (6, 6), dtype=np.uint16)
    assert np.array_equal(decode_image(encoded(wide), LIMITS, image_shape=(1, 6, 6))[0], wide >> 8)


def test_another_size_covers_and_is_cropped_around_its_centre() -> None:
    pixels = np.zeros((8, 24), dtype=np.uint8)
    pixels[:, 8:16] = 200  # the middle third is what a square model sees
    assert np.array_equal(
        decode_image(encoded(pixels), LIMITS, image_shape=(1, 8, 8)), np.full((1, 8, 8), 200, np.uint8)
    )
    half = decode_image(encoded(np.full((64, 64), 77, np.uint8)), LIMITS, image_shape=(1, 32, 32))
    assert np.array_equal(half, np.full((1, 32, 32), 77, np.uint8))


def test_exif_orientation_is_applied() -> None:
    pixels = noise(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the viewer must rotate by 90° clockwise
    assert np.array_equal(
        decode_image(encoded(pixels, exif=exif), LIMITS, image_shape=(1, 6, 4))[0], np.rot90(pixels, k=-1)
    )


def test_the_first_frame_of_an_animation_counts() -> None:
    first, second = Image.fromarray(np.full((8, 8), 10, np.uint8)), Image.fromarray(np.full((8, 8), 250, np.uint8))
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=[second])
    assert decode_image(buffer.getvalue(), LIMITS, image_shape=(1, 8, 8)).max() == 10


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"hello, I am a text file", "not an image"),
        (encoded(noise(64, 64))[:2000], "decoded"),
        (encoded(noise(64, 64), "JPEG")[:900], "decoded"),
        (encoded(noise(64, 64), "TIFF"), "not an image"),
        (bomb(20_000, 20_000), "at most 1000000 pixels"),
        (bomb(1001, 1000), "1001000 pixels"),
        (bomb(1000, 1000), "decoded"),
        (b"\0" * 1_000_001, "1000001 bytes"),
    ],
    ids=["empty", "text", "cut-png", "cut-jpeg", "tiff", "bomb", "over", "hollow", "heavy"],
)
def test_what_cannot_be_used_says_why(data: bytes, says: str) -> None:
    with pytest.raises(BadImageError, match=says):
        decode_image(data, LIMITS, image_shape=(1, 8, 8))


@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 400))
@settings(max_examples=150, deadline=None)
def test_damaged_files_give_pixels_or_a_bad_image_and_nothing_else(position: int, value: int, cut: int) -> None:
    data = bytearray(encoded(noise(16, 16, 3), "JPEG"))
    data[position % len(data)] = value
    try:
        decoded = decode_image(bytes(data[: len(data) - cut]), LIMITS, image_shape=(3, 8, 8))
    except BadImageError:
        return
    assert decoded.shape == (3, 8, 8)
    assert decoded.dtype == np.uint8
