"""Built-in sets against small archives of the real format, served by a real HTTP server."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models.data import load
from models.data.download import DownloadError, fetch
from tests.disks import full_disk

if TYPE_CHECKING:
    from _typeshed import SupportsRead, SupportsWrite

RNG = np.random.default_rng(3)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_fetch_reports_bytes_keeps_the_file_and_checks_it(site: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = site
    (folder / "file").write_bytes(RNG.bytes(3_000_000))
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int, /, *, unit: str, stage: str) -> None:
        assert (unit, stage) == ("byte", "download")
        seen.append((done, total))

    path = tmp_path / "into" / "file"
    fetch(f"{url}/file", path, md5=md5(folder / "file"), progress=progress)
    assert path.read_bytes() == (folder / "file").read_bytes()
    assert seen[-1] == (3_000_000, 3_000_000) and len(seen) > 1
    count = len(seen)
    fetch(f"{url}/file", path, md5=md5(path), progress=progress)
    assert len(seen) == count
    with pytest.raises(DownloadError, match="MD5"):
        fetch(f"{url}/file", tmp_path / "other" / "file", md5="0" * 32)
    with pytest.raises(DownloadError, match="cannot download"):
        fetch(f"{url}/missing", tmp_path / "other" / "file", md5="0" * 32)
    assert not list((tmp_path / "other").iterdir())


def test_a_full_disk_is_no_failed_download(site: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = site
    (folder / "file").write_bytes(RNG.bytes(3_000_000))
    with full_disk(tmp_path / "disk", size=1 << 20) as disk, pytest.raises(OSError, match="No space left"):
        fetch(f"{url}/file", disk / "file", md5=md5(folder / "file"))


class BreakingHandler(QuietHandler):
    """Hangs up in the middle of a file."""

    def copyfile(self, source: SupportsRead[bytes], outputfile: SupportsWrite[bytes]) -> None:
        outputfile.write(source.read(1_000_000))


def test_a_download_that_breaks_off_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(RNG.bytes(3_000_000))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(BreakingHandler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with pytest.raises(DownloadError, match="broke off after 1000000 of 3000000 bytes"):
        fetch(f"http://127.0.0.1:{server.server_port}/file", tmp_path / "into", md5="0" * 32)
    server.shutdown()
    thread.join()
    server.server_close()


def test_cifar10_is_read_as_published(site: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    url, folder = site
    source = tmp_path / CIFAR10.base_folder
    source.mkdir()
    pixels = {}
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        pixels[name] = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
        (source / name).write_bytes(pickle.dumps({"data": pixels[name], "labels": [0, 9, 3, 1]}))
    (source / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    with tarfile.open(folder / CIFAR10.filename, "w:gz") as archive:
        archive.add(source, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "url", f"{url}/{CIFAR10.filename}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(folder / CIFAR10.filename))
    lists = {"train_list": [f"data_batch_{k}" for k in range(1, 6)], "test_list": ["test_batch"]}
    for attribute, names in lists.items():
        monkeypatch.setattr(CIFAR10, attribute, [[name, md5(source / name)] for name in names])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(source / "batches.meta")})
    data = load("cifar10", root=tmp_path / "root")
    assert (len(data.train), len(data.test)) == (20, 4)
    assert np.array_equal(data.train.images[4:8].numpy(), pixels["data_batch_2"].reshape(4, 3, 32, 32))
    assert data.test.labels.tolist() == [0, 9, 3, 1]
    assert load("cifar10", root=tmp_path / "root").sha256 == data.sha256


def test_fashion_mnist_is_read_as_published(
    site: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import FashionMNIST

    url, folder = site
    resources, pixels = [], {}
    for prefix, count in (("train", 5), ("t10k", 3)):
        pixels[prefix] = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        images = struct.pack(">IIII", 2051, count, 28, 28) + pixels[prefix].tobytes()
        labels = struct.pack(">II", 2049, count) + bytes(range(count))
        for kind, data in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{prefix}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(data))
            resources.append((path.name, md5(path)))
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{url}/"])
    monkeypatch.setattr(FashionMNIST, "resources", resources)
    data = load("fashion-mnist", root=tmp_path / "root")
    assert data.image_shape == (1, 28, 28)
    assert np.array_equal(data.train.images[:, 0].numpy(), pixels["train"])
    assert np.array_equal(data.test.images[:, 0].numpy(), pixels["t10k"])
    assert data.test.labels.tolist() == [0, 1, 2]
