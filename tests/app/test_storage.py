"""Artifacts on a disk and on a real S3 server: by their hash, whole or not at all, verified on the way out."""

from __future__ import annotations

import hashlib
import io
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import pytest

from app.errors import NotFoundError, UnavailableError
from app.file_systems import StorageError
from app.storage import BLOCK, Artifact, CorruptArtifactError, Storage
from tests.conftest import new_bucket
from tests.servers import free_port, s3_on

LARGE = bytes(range(256)) * (BLOCK * 5 // 2 // 256)
"""Travels to S3 in three parts."""


@pytest.fixture
def storage(storage_url: str) -> Storage:
    return Storage(storage_url)


def tamper(storage: Storage, artifact: Artifact, data: bytes) -> None:
    """Put other bytes under the artifact's name."""
    with fsspec.open(f"{storage.url}/{artifact.sha256[:2]}/{artifact.sha256}", "wb") as file:
        file.write(data)


def names(storage: Storage) -> list[str]:
    return [found.name for found in storage.find()]


@pytest.mark.parametrize("data", [b"", b"weights", LARGE], ids=["empty", "small", "large"])
def test_bytes_come_back_by_their_hash(storage: Storage, tmp_path: Path, data: bytes) -> None:
    artifact = storage.put_bytes(data)
    assert (artifact.sha256, artifact.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert storage.exists(artifact.sha256)
    with storage.open(artifact.sha256) as file:
        assert file.read() == data
    assert storage.fetch(artifact.sha256, tmp_path / "deep" / "copy").read_bytes() == data
    source = tmp_path / "source"
    source.write_bytes(data)
    assert storage.put_file(source) == artifact
    storage.delete(artifact.sha256)
    storage.delete(artifact.sha256)
    assert not storage.exists(artifact.sha256)
    assert storage.put_file(source) == artifact
    assert storage.exists(artifact.sha256)


@pytest.mark.parametrize("name", ["0" * 64, "../../etc/passwd", "", "A" * 64])
def test_what_is_not_there_is_not_found(storage: Storage, tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFoundError):
        storage.fetch(name, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    with pytest.raises(NotFoundError), storage.open(name) as file:
        file.read()


def test_damaged_bytes_are_noticed_and_leave_nothing(storage: Storage, tmp_path: Path) -> None:
    artifact = storage.put_bytes(b"weights" * 1000)
    tamper(storage, artifact, b"Weights" + b"weights" * 999)
    folder = tmp_path / "fetched"
    with pytest.raises(CorruptArtifactError, match=artifact.sha256):
        storage.fetch(artifact.sha256, folder / "copy")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("damaged", [b"x" * 10, b"y" * 1000])
def test_a_damaged_artifact_is_written_again(storage: Storage, tmp_path: Path, damaged: bytes) -> None:
    """As the same run, or upload, repeated makes it."""
    artifact = storage.put_bytes(b"x" * 1000)
    tamper(storage, artifact, damaged)
    storage.put_bytes(b"x" * 1000)
    assert storage.fetch(artifact.sha256, tmp_path / "copy").read_bytes() == b"x" * 1000
    tamper(storage, artifact, damaged)
    (tmp_path / "source").write_bytes(b"x" * 1000)
    assert storage.put_file(tmp_path / "source") == artifact
    assert storage.fetch(artifact.sha256, tmp_path / "copy").read_bytes() == b"x" * 1000


class Breaking(io.BytesIO):
    """A source that fails after two thirds, as a disk may."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > len(self.getbuffer()) * 2 // 3:
            raise OSError(5, "Input/output error")
        return super().read(size)


def test_an_upload_that_breaks_off_leaves_nothing(storage: Storage) -> None:
    artifact = Artifact(hashlib.sha256(LARGE).hexdigest(), len(LARGE))
    with pytest.raises(StorageError):
        storage._write(artifact, Breaking(LARGE), verify=False)
    assert not storage.exists(artifact.sha256)
    assert names(storage) == []
    if storage.url.startswith("s3://"):
        bucket = storage.url.split("/")[2]
        waiting = fsspec.filesystem("s3", skip_instance_cache=True).call_s3("list_multipart_uploads", Bucket=bucket)
        assert waiting.get("Uploads", []) == []
    assert storage.put_bytes(LARGE) == artifact


def test_a_scope_is_separate_and_can_be_cleared(storage: Storage) -> None:
    kept = storage.put_bytes(b"kept")
    scope, longer = storage.scoped("checkpoints/1"), storage.scoped("checkpoints/10")
    inside = scope.put_bytes(b"inside")
    longer.put_bytes(b"inside")
    assert scope.exists(inside.sha256) and not storage.exists(inside.sha256)
    assert sorted(storage.scopes("checkpoints")) == ["1", "10"]
    scope.clear()
    scope.clear()
    assert storage.scopes("checkpoints") == ["10"] and storage.scopes("evidence") == []
    assert not scope.exists(inside.sha256)
    assert longer.exists(inside.sha256) and storage.exists(kept.sha256)


def test_an_emptied_scope_is_gone(storage: Storage) -> None:
    scope = storage.scoped("examples/1")
    kept = [scope.put_bytes(data).sha256 for data in (b"a", b"b")]
    scope.delete(kept[0])
    assert storage.scopes("examples") == ["1"]
    scope.delete(kept[1])
    assert storage.scopes("examples") == []


def test_finding_what_lies_there(storage: Storage) -> None:
    before = time.time()
    artifact = storage.put_bytes(b"abc")
    storage.scoped("evidence/1").put_bytes(b"abc")
    (found,) = storage.find(artifact.sha256[:2])
    assert (found.name, found.size) == (artifact.sha256, 3)
    assert before - 2 <= found.modified <= time.time() + 2
    assert storage.find("00") == []
    storage.delete(found.name)
    assert not storage.exists(artifact.sha256)


def test_what_a_killed_writer_left_is_found_and_can_be_deleted(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}/store")
    artifact = storage.put_bytes(b"abc")
    folder = tmp_path / "store" / artifact.sha256[:2]
    rest = folder / f".{artifact.sha256}.{'0' * 32}"
    rest.write_bytes(b"ab")
    (folder / "not-ours").write_bytes(b"")
    assert sorted(names(storage)) == [rest.name, artifact.sha256]
    storage.delete(rest.name)
    assert sorted(path.name for path in folder.iterdir()) == [artifact.sha256, "not-ours"]


def test_many_threads_write_the_same_bytes(storage: Storage, tmp_path: Path) -> None:
    data = b"same" * 100_000
    threads = [threading.Thread(target=storage.put_bytes, args=(data,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sha256 = hashlib.sha256(data).hexdigest()
    assert storage.fetch(sha256, tmp_path / "copy").read_bytes() == data
    assert names(storage) == [sha256]


def test_what_another_process_writes_and_deletes_is_seen(storage: Storage) -> None:
    artifact = Artifact(hashlib.sha256(b"news").hexdigest(), 4)

    def elsewhere(call: str) -> None:
        code = f"from app.storage import Storage; Storage({storage.url!r}).{call}"
        subprocess.run([sys.executable, "-c", code], check=True)

    assert not storage.exists(artifact.sha256) and storage.find() == [] and storage.scopes("x") == []
    elsewhere("put_bytes(b'news')")
    elsewhere("scoped('x/y').put_bytes(b'news')")
    assert storage.exists(artifact.sha256) and storage.scopes("x") == ["y"]
    assert artifact.sha256 in names(storage)
    elsewhere(f"delete({artifact.sha256!r})")
    assert not storage.exists(artifact.sha256)
    with pytest.raises(NotFoundError), storage.open(artifact.sha256) as file:
        file.read()
    assert storage.put_bytes(b"news") == artifact
    assert storage.exists(artifact.sha256)


def test_a_bucket_that_is_not_there(s3_server: str) -> None:
    storage = Storage("s3://there-is-no-such-bucket/clead")
    for call in (storage.check, lambda: storage.put_bytes(b"x")):
        with pytest.raises(StorageError):
            call()
    Storage(new_bucket()).check()


def test_an_s3_that_goes_away_is_an_error_and_its_return_is_noticed(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with s3_on(port):
        storage = Storage(new_bucket())
        artifact = storage.put_bytes(b"x")
    bucket = storage.url.split("/")[2]

    def fails() -> None:
        for call in (
            storage.check,
            storage.scoped("a/b").clear,
            lambda: storage.exists(artifact.sha256),
            lambda: storage.put_bytes(b"y"),
            lambda: storage.put_bytes(LARGE),
            lambda: storage.fetch(artifact.sha256, tmp_path / "copy"),
            lambda: storage.delete(artifact.sha256),
            lambda: storage.scopes("a"),
            storage.find,
        ):
            with pytest.raises(UnavailableError, match=r"the storage does not answer \([A-Za-z]*Error\)"):
                call()

    fails()
    with s3_on(port):
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
        assert storage.put_bytes(b"x") == artifact
        assert storage.fetch(artifact.sha256, tmp_path / "copy").read_bytes() == b"x"


def test_an_s3_that_accepts_and_never_answers_is_an_error(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.file_systems.READ_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(UnavailableError):
            Storage("s3://bucket/clead").exists("0" * 64)
