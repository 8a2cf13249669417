"""Arrays made to do harm: nothing is unpickled, and no header is believed before its numbers are checked."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.data import DataError, UploadLimits, check_upload, load
from tests.models.data.test_uploads import arrays


def npy(header: str, data: bytes = b"", *, version: tuple[int, int] = (1, 0)) -> bytes:
    """An npy file (NEP 1) with a header of one's own."""
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header.encode()))
    return b"\x93NUMPY" + bytes(version) + length + header.encode() + data


def described(descr: str, shape: str, *, fortran: bool = False) -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}\n"


def npz(path: Path, **members: bytes) -> Path:
    """Good arrays, but for ``members``, which are written as they are."""
    np.savez(path, **{name: array for name, array in arrays().items() if name not in members})
    with zipfile.ZipFile(path, "a") as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def test_no_code_in_an_object_array_runs(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    objects = np.array([Payload(proof)] * 6, dtype=object)
    for name in ("x_train", "y_train", "classes"):
        np.savez(tmp_path / "bad.npz", **arrays(**{name: objects}))
        with pytest.raises(DataError, match="pickled"):
            check_upload(tmp_path / "bad.npz")
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Payload(proof)))
    with pytest.raises(DataError):
        check_upload(tmp_path / "bare.npz")
    hidden = described("'|u1'", "(6, 5, 4, 3)") + "\n"
    with pytest.raises(DataError):
        check_upload(npz(tmp_path / "hidden.npz", x_train=npy(hidden, pickle.dumps(Payload(proof)))))
    assert not proof.exists()
    np.load(tmp_path / "bad.npz", allow_pickle=True)["classes"]
    assert proof.exists(), "the payload works where it is let in"


SHAPES = (
    "(99999999999999999999,)",
    "(2**62, 4)",
    "(9223372036854775807, 2)",
    "(4611686018427387904, 4)",
    "(-6,)",
    "(-6, -5, 4, 3)",
    "(0, 99999999999999999999)",
    "(True, False)",
    "(6.0,)",
    "('6',)",
    "6",
    "()",
)


@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["x_train", "y_train", "classes"])
def test_a_shape_that_lies_is_refused(tmp_path: Path, name: str, shape: str, fortran: bool) -> None:
    member = npy(described("'|u1'", shape, fortran=fortran), b"\0" * 6)
    with pytest.raises(DataError, match=name):
        check_upload(npz(tmp_path / "lie.npz", **{name: member}))


TYPES = (
    "'O'",
    "[('a', 'O')]",
    "('|u1', (2, 3))",
    "[('a', '|u1'), ('b', '|u1')]",
    "'<U0'",
    "'|S0'",
    "'|V0'",
    "'<c8'",
    "'<M8[ns]'",
    "'|b1'",
    "'<U999999999999'",
    "''",
    "None",
    "5",
    "[]",
    "b'u1'",
    "'u1' * 10",
)


@pytest.mark.parametrize("descr", TYPES)
@pytest.mark.parametrize("name", ["x_train", "y_train"])
def test_a_type_of_no_use_is_refused(tmp_path: Path, name: str, descr: str) -> None:
    shape = "(6, 5, 4, 3)" if name == "x_train" else "(6,)"
    with pytest.raises(DataError, match=name):
        check_upload(npz(tmp_path / "bad.npz", **{name: npy(described(descr, shape), b"\0" * 720)}))


HEADERS = (
    "",
    "\0",
    "(",
    "'",
    "[" * 5000,
    "{" * 200,
    "-" * 9000 + "1",
    "not " * 2000 + "1",
    "1" + "+1j" * 3000,
    "9" * 9000,
    "a." * 4000 + "a",
    "x" * 60_000,
    "é" * 100,
    "{'descr': '|u1'}",
    "__import__('pathlib').Path('ran').touch()",
    described("'|u1'", "(" + "1," * 4000 + ")"),
)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0), (9, 9)])
@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_a_header_that_is_none_is_refused(
    tmp_path: Path, header: str, version: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="y_train"):
        check_upload(npz(tmp_path / "bad.npz", y_train=npy(header, b"\0" * 6, version=version)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("rest", [b"", b"\x01\x00\xff\xff{}", b"\x02\x00" + b"\xff" * 6])
def test_a_cut_header_is_refused(tmp_path: Path, rest: bytes) -> None:
    with pytest.raises(DataError, match="y_train"):
        check_upload(npz(tmp_path / "cut.npz", y_train=b"\x93NUMPY" + rest))


@pytest.mark.parametrize(
    "names",
    [
        np.frombuffer(np.array([0xD800, 65, 66], "<u4").tobytes(), "<U1"),
        np.frombuffer(np.array([0x110000, 65, 66], "<u4").tobytes(), "<U1"),
        np.array(["a\0b", "c", "d"]),
        np.array(["a\nb", "c", "d"]),
        np.array(["a\u202eb", "c", "d"]),
        np.array(["a" * 201, "c", "d"]),
    ],
    ids=["surrogate", "beyond Unicode", "NUL", "line break", "turned", "long"],
)
def test_names_that_no_class_can_have_are_refused(tmp_path: Path, names: np.ndarray) -> None:
    np.savez(tmp_path / "bad.npz", **arrays(classes=names))
    with pytest.raises(DataError, match="class"):
        check_upload(tmp_path / "bad.npz")


@pytest.mark.parametrize("pixel", [np.nan, np.inf, -np.inf, -1e-3, 1.001, 3e38])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", np.longdouble])
def test_one_pixel_that_is_none_is_found(tmp_path: Path, pixel: float, dtype: Any) -> None:
    with np.errstate(over="ignore"):
        images = np.full((6, 5, 4, 3), 0.5).astype(dtype)
        images[5, 4, 3, 2] = pixel
    np.savez(tmp_path / "bad.npz", **arrays(x_train=images))
    with pytest.raises(DataError, match=r"outside \[0, 1\], or NaN"):
        check_upload(tmp_path / "bad.npz")


@pytest.mark.parametrize("dtype", [">u8", "<i2", "|i1", ">f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_order_and_byte_order_is_read_exactly(tmp_path: Path, dtype: str, order: Any) -> None:
    found = arrays()
    plain = dict(found)
    for name, array in found.items():
        floats, pixels = np.dtype(dtype).kind == "f", name.startswith("x_")
        if floats and pixels:
            found[name] = np.array(array / 255, dtype, order=order)
        else:
            found[name] = np.array(array, array.dtype if floats or pixels else dtype, order=order)
    np.savez(tmp_path / "data.npz", **found)
    data = load("mine", root=tmp_path, upload=tmp_path / "data.npz")
    assert np.array_equal(data.train.images.numpy(), plain["x_train"].transpose(0, 3, 1, 2))
    assert np.array_equal(data.train.labels.numpy(), plain["y_train"])


def test_what_must_be_read_whole_is_bounded(tmp_path: Path) -> None:
    """Pixels in C order are read in pieces, labels and names are small, and Fortran order mixes all images."""
    limits = UploadLimits(array_bytes=100)
    np.savez(tmp_path / "c.npz", **arrays())
    assert check_upload(tmp_path / "c.npz", limits=limits).train_size == 6
    np.savez(tmp_path / "f.npz", **arrays(x_train=np.asfortranarray(arrays()["x_train"])))
    with pytest.raises(DataError, match="x_train has 360 bytes; at most 100"):
        check_upload(tmp_path / "f.npz", limits=limits)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(1000, np.int64))
    with pytest.raises(DataError, match="y_train has 8000 bytes; at most 100"):
        check_upload(npz(tmp_path / "labels.npz", y_train=buffer.getvalue()), limits=limits)
