"""Archives made to do harm: each is refused with a line that says why, at little cost to whoever reads it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.data import DataError, UploadLimits, check_upload
from tests.memory import MIB, at_most
from tests.models.data.test_uploads import Members, folders, picture, write

LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
NAME = b"train/cat/0.png"


def patched(path: Path, *changes: tuple[bytes, int, bytes]) -> Path:
    """The archive with bytes replaced at an offset from the first record of a signature (PKWARE APPNOTE 4.3)."""
    content = bytearray(path.read_bytes())
    for signature, offset, data in changes:
        start = content.index(signature) + offset
        content[start : start + len(data)] = data
    path.write_bytes(content)
    return path


def renamed(path: Path, name: bytes) -> Path:
    """The archive with its first member called otherwise, in as many bytes."""
    assert len(name) == len(NAME)
    path.write_bytes(path.read_bytes().replace(NAME, name))
    return path


def good(path: Path) -> Path:
    members = folders()[0]
    return write(path, {NAME.decode(): members[NAME.decode()], **members})


U16, U32 = struct.Struct("<H").pack, struct.Struct("<I").pack
ALTERED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "parent": (lambda path: renamed(path, b"../../../../0.p"), "points outside"),
    "absolute": (lambda path: renamed(path, b"/rain/cat/0.png"), "points outside"),
    "backslash": (lambda path: renamed(path, b"..\\..\\..\\..\\a.b"), "points outside"),
    "drive": (lambda path: renamed(path, b"C:ain/cat/0.png"), "points outside"),
    "NUL": (lambda path: renamed(path, b"train/cat\0/0.pn"), "not where an image|points outside|cannot be read"),
    "line break": (lambda path: renamed(path, b"train/c\nt/0.png"), "control characters"),
    "escape": (lambda path: renamed(path, b"train/c\x1bt/0.png"), "control characters"),
    "encrypted": (lambda path: patched(path, (CENTRAL, 8, U16(1))), "encrypted"),
    "bzip2": (lambda path: patched(path, (CENTRAL, 10, U16(12))), "uncommon way"),
    "lzma": (lambda path: patched(path, (CENTRAL, 10, U16(14))), "uncommon way"),
    "unknown compression": (lambda path: patched(path, (CENTRAL, 10, U16(99))), "uncommon way"),
    "directory and header disagree": (lambda path: patched(path, (LOCAL, 30, b"other")), "cannot be read"),
    "later version": (lambda path: patched(path, (CENTRAL, 6, U16(99))), "not a readable zip"),
    "declared too short": (lambda path: patched(path, (CENTRAL, 24, U32(20))), "cannot be"),
    "header beyond the file": (lambda path: patched(path, (CENTRAL, 42, U32(2**30))), "cannot be"),
    "directory beyond the file": (lambda path: patched(path, (END, 16, U32(2**31))), "cannot be read"),
    "directory too long": (lambda path: patched(path, (END, 12, U32(2**30))), "at most|not a readable zip"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-30]) and path, "not a readable zip"),
}


@pytest.mark.parametrize("case", ALTERED)
def test_an_altered_archive_is_refused_and_nothing_is_written(tmp_path: Path, case: str) -> None:
    alter, message = ALTERED[case]
    path = alter(good(tmp_path / "data.zip"))
    with pytest.raises(DataError, match=message):
        check_upload(path)
    assert [found.name for found in tmp_path.iterdir()] == ["data.zip"]


def test_the_archive_that_the_others_are_made_from_is_good(tmp_path: Path) -> None:
    assert check_upload(good(tmp_path / "data.zip")).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *(("\u202egnp.exe", "turn the writing"), ("a\x85b", "control")),
        *(("c" * 201, "at most 200"), ("c" * 60_000, "at most 200")),
    ],
    ids=["turned", "C1", "long", "huge"],
)  # fmt: skip
def test_names_that_no_class_can_have_are_refused(tmp_path: Path, name: str, message: str) -> None:
    members = {**folders()[0], f"train/{name}/0.png": picture()[0]}
    with pytest.raises(DataError, match=message):
        check_upload(write(tmp_path / "data.zip", members))


def test_any_writing_is_a_good_name_and_case_matters(tmp_path: Path) -> None:
    names = ("Cat", "cat", "猫", "قطة", "кошка 2", "<b>cat", "🐈")
    members: Members = {}
    for name in names:
        members |= {f"train/{name}/0.png": picture()[0], f"test/{name}/0.png": picture()[0]}
    assert check_upload(write(tmp_path / "data.zip", members)).classes == tuple(sorted(names))


def overlapping(count: int, size: int) -> bytes:
    """``count`` members of ``size`` zeros that share one packed kernel (Fifield, A better zip bomb, WOOT 2019)."""
    compress = zlib.compressobj(9, zlib.DEFLATED, -15)
    plain = b"\0" * size
    packed = compress.compress(plain) + compress.flush()
    fields = struct.pack("<HHHHHIII", 20, 0, 8, 0, 0x21, zlib.crc32(plain), len(packed), size)
    name = b"train/cat/%07d.png"
    kernel = LOCAL + fields + struct.pack("<HH", len(name % 0), 0) + name % 0 + packed
    directory = b"".join(
        CENTRAL + U16(20) + fields + struct.pack("<HHHHHII", len(name % 0), 0, 0, 0, 0, 0, 0) + name % index
        for index in range(count)
    )
    return (
        kernel
        + directory
        + END
        + struct.pack("<HHHHIIH", 0, 0, count % 65536, count % 65536, len(directory), len(kernel), 0)
    )


@pytest.mark.parametrize(("count", "size"), [(1000, 1 << 20), (3, 200 << 20)])
def test_a_bomb_of_overlapping_members_is_refused_before_it_is_unpacked(tmp_path: Path, count: int, size: int) -> None:
    (tmp_path / "bomb.zip").write_bytes(overlapping(count, size))
    with pytest.raises(DataError, match="as a zip bomb does"):
        check_upload(tmp_path / "bomb.zip")


def test_members_are_counted_before_they_take_memory(tmp_path: Path) -> None:
    """Each becomes an object of half a kilobyte or more, and an upload may hold tens of millions of them."""
    (tmp_path / "many.zip").write_bytes(overlapping(200_000, 1))
    with at_most(64 * MIB), pytest.raises(DataError, match=r"200000 members; at most 100000"):
        check_upload(tmp_path / "many.zip", limits=UploadLimits(members=100_000))
    with at_most(1 * MIB), pytest.raises(DataError, match=r"a directory of \d+ bytes; at most 1000"):
        check_upload(tmp_path / "many.zip", limits=UploadLimits(members=1000))


def black(side: int) -> bytes:
    """A PNG of a thousandth of its pixels."""
    data = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(data, "PNG")
    return data.getvalue()


def test_many_large_images_are_refused_at_the_first(tmp_path: Path) -> None:
    """Each is allowed and packs to 16 kB; all of them would be 600 GB of pixels."""
    image = black(4000)
    members = {f"{split}/{label}/{n}.png": image for split in ("train", "test") for label in "ab" for n in range(3000)}
    path = write(tmp_path / "large.zip", members)
    assert path.stat().st_size < 400 << 20
    with at_most(512 * MIB), pytest.raises(DataError, match=r"images of 4000×4000 pixels are \d+ bytes in memory"):
        check_upload(path)


def test_large_images_are_decoded_a_few_at_a_time(tmp_path: Path) -> None:
    """Measuring takes 17 times their 12 MB each: a few at a time, and not 16 at once."""
    image = black(2000)
    members = {f"{split}/{label}/{n}.png": image for split in ("train", "test") for label in "ab" for n in range(8)}
    path = write(tmp_path / "large.zip", members)
    with at_most(1024 * MIB):
        assert check_upload(path).train_size == 16


def test_a_small_first_image_does_not_let_large_ones_in(tmp_path: Path) -> None:
    members = {"train/a/0.png": black(8), "train/b/0.png": black(4000)}
    members |= {"test/a/0.png": black(8), "test/b/0.png": black(8)}
    with pytest.raises(DataError, match=r"'train/b/0\.png' has 4000×4000 pixels where others have 8×8"):
        check_upload(write(tmp_path / "mixed.zip", members))


def test_one_image_file_is_bounded(tmp_path: Path) -> None:
    path = write(tmp_path / "data.zip", folders()[0])
    with pytest.raises(DataError, match="at most 20 for one image"):
        check_upload(path, limits=UploadLimits(image_bytes=20))
