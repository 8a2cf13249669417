"""Uploads of strangers: good ones are read exactly, bad ones are refused with a line that says why."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.data import DataError, UploadLimits, check_upload, load

RNG = np.random.default_rng(5)
Members = dict[str, bytes]


def picture(mode: str = "RGB", size: tuple[int, int] = (6, 5), suffix: str = "png") -> tuple[bytes, np.ndarray]:
    """An image file and its pixels (H, W) or (H, W, 3); PNG keeps them exactly."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels, mode).save(data, {"png": "PNG", "jpg": "JPEG"}[suffix])
    return data.getvalue(), pixels


def folders(mode: str = "RGB") -> tuple[Members, dict[str, np.ndarray]]:
    members, pixels = {}, {}
    for split, count in (("train", 3), ("test", 2)):
        for label in ("dog", "cat"):
            for index in range(count):
                name = f"{split}/{label}/{index}.png"
                members[name], pixels[name] = picture(mode)
    return members, pixels


def write(path: Path, members: Members) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def arrays(**changes: object) -> dict[str, np.ndarray]:
    found: dict[str, object] = {
        "x_train": RNG.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": RNG.integers(0, 256, (3, 5, 4, 3), dtype=np.uint8),
        "y_test": np.array([0, 1, 2]),
    }
    found.update(changes)
    return {name: np.asarray(value) for name, value in found.items() if value is not None}


def test_a_folder_is_read_exactly(tmp_path: Path) -> None:
    members, pixels = folders()
    path = write(tmp_path / "data.zip", members)
    data = load("mine", root=tmp_path / "root", upload=path)
    assert data.classes == ("cat", "dog") and data.image_shape == (3, 5, 6)
    for split, images in (("train", data.train), ("test", data.test)):
        names = sorted(name for name in members if name.startswith(f"{split}/"))
        assert [data.classes[label] for label in images.labels] == [name.split("/")[1] for name in names]
        expected = np.stack([pixels[name] for name in names]).transpose(0, 3, 1, 2)
        assert np.array_equal(images.images.numpy(), expected)


def test_the_check_measures_what_loading_finds(tmp_path: Path) -> None:
    path = write(tmp_path / "data.zip", folders()[0])
    summary, data = check_upload(path), load("mine", root=tmp_path, upload=path)
    assert (summary.format, summary.classes, summary.image_shape) == ("zip", data.classes, data.image_shape)
    assert (summary.train_size, summary.test_size) == (len(data.train), len(data.test)) == (6, 4)
    assert (summary.mean, summary.std) == data.channel_statistics()
    assert summary.sha256 == data.sha256


def test_grey_images_have_one_channel_and_mixed_ones_three(tmp_path: Path) -> None:
    members, pixels = folders("L")
    path = write(tmp_path / "grey.zip", members)
    data = load("grey", root=tmp_path, upload=path)
    assert data.image_shape == check_upload(path).image_shape == (1, 5, 6)
    assert np.array_equal(data.train.images[0, 0].numpy(), pixels["train/cat/0.png"])
    members["test/dog/1.png"] = picture("RGB")[0]
    assert load("mixed", root=tmp_path, upload=write(tmp_path / "mixed.zip", members)).image_shape == (3, 5, 6)


def test_an_outer_folder_clutter_and_jpeg_are_accepted(tmp_path: Path) -> None:
    members = {f"pets/{name}": data for name, data in folders()[0].items()}
    members |= {"pets/train/cat/9.JPG": picture(suffix="jpg")[0], "pets/README.md": b"pets", "__MACOSX/x": b""}
    members["pets/train/.DS_Store"] = b"x"
    assert check_upload(write(tmp_path / "pets.zip", members)).train_size == 7


def test_the_second_load_reads_the_cache_and_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "data.zip", folders()[0])
    stages: list[str] = []

    def progress(done: int, total: int, /, *, unit: str, stage: str) -> None:
        stages.append(f"{stage} {done}/{total} {unit}")

    first = load("mine", root=tmp_path, upload=path, progress=progress)
    assert stages[-1] == "decode 10/10 image"
    stages.clear()
    again = load("mine", root=tmp_path, upload=path, progress=progress)
    assert not stages and torch.equal(again.train.images, first.train.images)
    (cache,) = (tmp_path / "decoded").glob("*.npz")
    cache.write_bytes(cache.read_bytes()[:-200])
    third = load("mine", root=tmp_path, upload=path, progress=progress)
    assert stages and torch.equal(third.train.images, first.train.images)


def _with(name: str, data: bytes) -> Callable[[], Members]:
    return lambda: {**folders()[0], name: data}


BAD_FOLDERS: dict[str, tuple[Callable[[], Members], str]] = {
    "parent path": (_with("../train/cat/1.png", b""), "points outside"),
    "absolute path": (_with("/train/cat/1.png", b""), "points outside"),
    "backslash": (_with("..\\train\\cat\\1.png", b""), "points outside"),
    "drive": (_with("C:/train/cat/1.png", b""), "points outside"),
    "truncated": (_with("train/cat/7.png", picture()[0][:-40]), "cannot be decoded"),
    "text as png": (_with("train/cat/7.png", b"hello"), "not a PNG or JPEG"),
    "gif as png": (_with("train/cat/7.png", b"GIF89a" + b"\0" * 30), "not a PNG or JPEG"),
    "other size": (_with("train/cat/7.png", picture(size=(7, 5))[0]), "of one size"),
    "other size in the test split alone": (
        lambda: {n: (picture(size=(8, 8))[0] if n.startswith("test") else d) for n, d in folders()[0].items()},
        "of one size",
    ),
    "text among images": (_with("train/cat/notes.txt", b"x"), "not named as an image"),
    "too deep": (_with("train/cat/more/1.png", b"x"), "not where an image belongs"),
    "no class": (_with("train/1.png", b"x"), "not where an image belongs"),
    "no test split": (lambda: {n: d for n, d in folders()[0].items() if n.startswith("train")}, "test split is empty"),
    "one class": (lambda: {n: d for n, d in folders()[0].items() if "/cat/" in n}, "only one class"),
    "new class in test": (_with("test/cow/1.png", picture()[0]), "cow"),
    "empty": (dict, "no files"),
    "readme alone": (lambda: {"README.md": b"x"}, "no training images"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_folders_are_refused(tmp_path: Path, case: str) -> None:
    members, message = BAD_FOLDERS[case]
    path = write(tmp_path / "bad.zip", members())
    with pytest.raises(DataError, match=message):
        check_upload(path)
    with pytest.raises(DataError, match=message):
        load("bad", root=tmp_path, upload=path)


def test_a_16_bit_image_is_refused(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(np.zeros((5, 6), dtype=np.uint16)).save(data, "PNG")
    with pytest.raises(DataError, match="8 bits"):
        check_upload(write(tmp_path / "deep.zip", {**folders()[0], "train/cat/7.png": data.getvalue()}))


def test_a_pixel_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """20,000 × 20,000 pixels in a few hundred bytes: only the header is true."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match=r"20000×20000 pixels|decompression bomb"):
        check_upload(write(tmp_path / "bomb.zip", {**folders()[0], "train/cat/7.png": bomb}))


def test_a_zip_bomb_and_sizes_over_the_limits_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "bomb.zip", {**folders()[0], "train/cat/7.png": b"\0" * (3 << 20)})
    with pytest.raises(DataError, match="zip bomb"):
        check_upload(path)
    good = write(tmp_path / "good.zip", folders()[0])
    for limits, message in (
        (UploadLimits(members=9), "10 members"),
        (UploadLimits(member_bytes=20), "at most 20"),
        (UploadLimits(total_bytes=200), "when unpacked"),
        (UploadLimits(image_pixels=29), "at most 29"),
    ):
        with pytest.raises(DataError, match=message):
            check_upload(good, limits=limits)


def test_links_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "link.zip", folders()[0])
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("train/cat/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="link"):
        check_upload(path)


def test_encrypted_damaged_and_repeated_members_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "data.zip", folders()[0])
    content = bytearray(path.read_bytes())
    # Bit 0 of the flags in the first entry of the central directory (PKWARE APPNOTE 4.3.12).
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "encrypted.zip").write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        check_upload(tmp_path / "encrypted.zip")
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    (tmp_path / "damaged.zip").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        check_upload(tmp_path / "damaged.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("train/cat/0.png", b"x")
    with pytest.raises(DataError, match="twice"):
        check_upload(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 truncated"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DataError, match="not a readable zip or npz"):
        check_upload(tmp_path / "file")


@pytest.mark.parametrize("layout", ["bytes, channels last", "bytes, channels first", "grey", "floats"])
def test_an_npz_is_read_exactly(tmp_path: Path, layout: str) -> None:
    found = arrays(classes=np.array(["a", "b", "c"]))
    expected = found["x_train"].transpose(0, 3, 1, 2)
    for name in ("x_train", "x_test"):
        if layout == "bytes, channels first":
            found[name] = found[name].transpose(0, 3, 1, 2)
        elif layout == "grey":
            found[name] = found[name][..., 0]
        elif layout == "floats":
            found[name] = (found[name] / 255).astype(np.float32)
    np.savez(tmp_path / "data.npz", **found)
    data = load("mine", root=tmp_path, upload=tmp_path / "data.npz")
    summary = check_upload(tmp_path / "data.npz")
    assert np.array_equal(data.train.images.numpy(), expected[:, :1] if layout == "grey" else expected)
    assert data.classes == summary.classes == ("a", "b", "c")
    assert summary.format == "npz" and summary.image_shape == data.image_shape
    assert (summary.mean, summary.std) == data.channel_statistics()


NAN = np.full((3, 5, 4, 3), 0.5)
NAN[1, 2, 3, 0] = np.nan
BAD_ARRAYS: dict[str, tuple[dict[str, object], str]] = {
    "missing": ({"y_test": None}, "missing: y_test"),
    "unknown": ({"z": [1]}, "unknown: z"),
    "pickled": ({"y_train": np.array([object()] * 6)}, "pickled"),
    "NaN": ({"x_test": NAN}, "NaN"),
    "out of range": ({"x_test": np.full((3, 5, 4, 3), 1.5)}, r"outside \[0, 1\]"),
    "counts differ": ({"y_train": [0, 1, 2]}, "6 images but 3 labels"),
    "labels are fractions": ({"y_train": [0.5] * 6}, "whole numbers"),
    "a class is never seen": ({"y_train": [0, 2, 2, 0, 2, 2]}, "every class"),
    "unknown test class": ({"y_test": [0, 1, 3]}, "class 3"),
    "negative label": ({"y_test": [0, 1, -1]}, "must lie in"),
    "integers": ({"x_test": np.zeros((3, 5, 4, 3), dtype=np.int64)}, "uint8"),
    "no channels": ({"x_test": np.zeros((3, 5, 4, 2), dtype=np.uint8)}, "has shape"),
    "sizes differ": ({"x_test": np.zeros((3, 6, 4, 3), dtype=np.uint8)}, "of one size"),
    "class names": ({"classes": np.array(["a"])}, "classes is"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_npz_are_refused(tmp_path: Path, case: str) -> None:
    changes, message = BAD_ARRAYS[case]
    np.savez(tmp_path / "bad.npz", **arrays(**changes))
    with pytest.raises(DataError, match=message):
        check_upload(tmp_path / "bad.npz")


def test_an_npy_header_that_lies_about_its_size_allocates_nothing(tmp_path: Path) -> None:
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(data, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 1000, 1000)})
    np.savez(tmp_path / "lie.npz", **arrays(x_train=None))
    with zipfile.ZipFile(tmp_path / "lie.npz", "a") as archive:
        archive.writestr("x_train.npy", data.getvalue())
    with pytest.raises(DataError, match="not what follows"):
        check_upload(tmp_path / "lie.npz")
