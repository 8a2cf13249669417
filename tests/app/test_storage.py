"""Artifacts on disk and in memory: by their hash, whole or not at all, verified on the way out."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from app.errors import NotFoundError
from app.storage import CorruptArtifactError, Storage


@pytest.fixture(params=("file", "memory"))
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(f"file://{tmp_path}/store" if request.param == "file" else f"memory://{tmp_path.name}")


def test_bytes_come_back_by_their_hash(storage: Storage, tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
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


@pytest.mark.parametrize("name", ["0" * 64, "../../etc/passwd", "", "A" * 64])
def test_what_is_not_there_is_not_found(storage: Storage, tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFoundError):
        storage.open(name)
    with pytest.raises(NotFoundError):
        storage.fetch(name, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_damaged_bytes_are_noticed_and_leave_nothing(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}/store")
    artifact = storage.put_bytes(b"weights" * 1000)
    path = tmp_path / "store" / artifact.sha256[:2] / artifact.sha256
    path.write_bytes(b"Weights" + path.read_bytes()[7:])
    with pytest.raises(CorruptArtifactError, match=artifact.sha256):
        storage.fetch(artifact.sha256, tmp_path / "copy")
    assert [found.name for found in tmp_path.iterdir()] == ["store"]


def test_a_truncated_artifact_is_written_again(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}/store")
    artifact = storage.put_bytes(b"x" * 1000)
    (tmp_path / "store" / artifact.sha256[:2] / artifact.sha256).write_bytes(b"x" * 10)
    storage.put_bytes(b"x" * 1000)
    assert storage.fetch(artifact.sha256, tmp_path / "copy").stat().st_size == 1000


def test_a_scope_is_separate_and_can_be_cleared(storage: Storage) -> None:
    kept = storage.put_bytes(b"kept")
    scope = storage.scoped("checkpoints/1")
    inside = scope.put_bytes(b"inside")
    assert scope.exists(inside.sha256) and not storage.exists(inside.sha256)
    scope.clear()
    scope.clear()
    assert not scope.exists(inside.sha256)
    assert storage.exists(kept.sha256)


def test_many_writers_of_the_same_bytes(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}/store")
    data = b"same" * 100_000
    threads = [threading.Thread(target=storage.put_bytes, args=(data,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sha256 = hashlib.sha256(data).hexdigest()
    assert storage.fetch(sha256, tmp_path / "copy").read_bytes() == data
    assert [path.name for path in (tmp_path / "store" / sha256[:2]).iterdir()] == [sha256]
