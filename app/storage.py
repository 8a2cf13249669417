"""Content-addressed artifacts (weights, checkpoints, uploads, pictures) on any fsspec URL: file://, s3://, …

An artifact's name is the SHA-256 of its bytes, so that equal bytes are kept once and a read can be verified.
"""

from __future__ import annotations

import copy
import hashlib
import io
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from app.errors import NotFoundError, UnavailableError
from app.file_systems import StorageError, backend_errors, modified, open_system

CHUNK = 1024 * 1024
BLOCK = 16 * CHUNK
"""Bytes of one request to an object store; larger artifacts travel in parts."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PARTIAL = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]{32}")


class CorruptArtifactError(UnavailableError):
    """The bytes in the storage are not those that were put there."""


@dataclass(frozen=True)
class Artifact:
    """Stored bytes: their SHA-256 in hexadecimal and their number."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Found:
    """An artifact, or the rest of one whose writer was killed. ``modified`` is in epoch seconds."""

    name: str
    size: int
    modified: float


class Storage:
    """Artifacts below one URL. Threads and processes may share it: a file appears whole or not at all.

    Every method raises :class:`StorageError` where the storage does not answer.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._system, self._root = open_system(url)
        self._local = "file" in self._system.protocol
        self._scope = False

    def scoped(self, folder: str) -> Storage:
        """A storage of its own below this one, whose artifacts may be deleted without a thought for other users."""
        scope = copy.copy(self)
        scope.url = f"{self.url.rstrip('/')}/{folder}"
        scope._root, scope._scope = f"{self._root}/{folder}", True
        return scope

    def check(self) -> None:
        """StorageError unless the storage answers and, in an object store, its bucket is there."""
        if self._local:
            self.exists("0" * 64)
            return
        try:
            with backend_errors():
                self._system.info(self._root.partition("/")[0])
        except FileNotFoundError:
            raise StorageError("the storage has no such bucket") from None

    def put_file(self, path: Path) -> Artifact:
        """Store the bytes of ``path``; in place of what lies there if that is damaged."""
        with path.open("rb") as file:
            artifact = _measure(file)
            file.seek(0)
            self._write(artifact, file, verify=True)
        return artifact

    def put_bytes(self, data: bytes) -> Artifact:
        """Store ``data``; in place of what lies there if that is damaged."""
        artifact = Artifact(hashlib.sha256(data).hexdigest(), len(data))
        self._write(artifact, io.BytesIO(data), verify=True)
        return artifact

    def ensure(self, artifact: Artifact, path: Path) -> None:
        """Store the bytes of ``path``, which are those of ``artifact``, unless as many are there."""
        with path.open("rb") as file:
            self._write(artifact, file, verify=False)

    def open(self, sha256: str) -> BinaryIO:
        """The artifact for reading, unverified (use :meth:`fetch` before trusting bytes); NotFoundError."""
        path = self._path(sha256)
        try:
            with backend_errors():
                return cast(BinaryIO, self._system.open(path, "rb", block_size=BLOCK))
        except FileNotFoundError:
            raise NotFoundError(f"the storage holds no artifact {sha256}") from None

    def read(self, sha256: str) -> bytes:
        """The bytes of a small artifact, unverified; NotFoundError."""
        try:
            with self.open(sha256) as source:
                return b"".join(_chunks(source))
        except FileNotFoundError:
            raise NotFoundError(f"artifact {sha256} was deleted while it was read") from None

    def fetch(self, sha256: str, into: Path) -> Path:
        """Copy the artifact to the file ``into`` and verify it on the way; it appears there only when it is right.

        Raises NotFoundError, or :class:`CorruptArtifactError` if the bytes have changed.
        """
        into.parent.mkdir(parents=True, exist_ok=True)
        partial = into.with_name(f".{into.name}.{uuid.uuid4().hex}.part")
        digest = hashlib.sha256()
        try:
            with self.open(sha256) as source, partial.open("wb") as target:
                for chunk in _chunks(source):
                    digest.update(chunk)
                    target.write(chunk)
            if digest.hexdigest() != sha256:
                raise CorruptArtifactError(f"artifact {sha256} is damaged: its bytes hash to {digest.hexdigest()}")
            partial.replace(into)
        except FileNotFoundError:
            raise NotFoundError(f"artifact {sha256} was deleted while it was read") from None
        finally:
            partial.unlink(missing_ok=True)
        return into

    def exists(self, sha256: str) -> bool:
        with backend_errors():
            return bool(self._system.exists(self._path(sha256)))

    def size(self, sha256: str) -> int | None:
        """Bytes of the artifact; None if it is not there."""
        with backend_errors():
            return self._size(self._path(sha256))

    def delete(self, name: str) -> None:
        """Remove an artifact by its hash, or a rest by the name that :meth:`find` told; none there is no error."""
        path = f"{self._root}/{name[1:3]}/{name}" if _PARTIAL.fullmatch(name) else self._path(name)
        try:
            with backend_errors():
                self._system.rm_file(path)
        except FileNotFoundError:
            return
        if self._local and self._scope:
            _remove_empty(Path(path).parent, Path(self._root))

    def clear(self) -> None:
        """Remove every artifact of this (scoped) storage."""
        try:
            with backend_errors():
                self._system.rm(self._root, recursive=True)
        except FileNotFoundError:
            return

    def find(self, prefix: str = "") -> list[Found]:
        """What lies here; in the storage itself, which has scopes beside its artifacts, on one of its shelves."""
        with backend_errors():
            listed = self._system.find(self._below(prefix), detail=True)
        named = ((path.rpartition("/")[2], info) for path, info in listed.items())
        return [
            Found(name, info["size"], modified(info))
            for name, info in named
            if _SHA256.fullmatch(name) or _PARTIAL.fullmatch(name)
        ]

    def shelves(self) -> list[str]:
        """The first two digits of the artifacts that lie here."""
        return [name for name in self.scopes("") if re.fullmatch(r"[0-9a-f]{2}", name)]

    def scopes(self, folder: str) -> list[str]:
        """Names of the scopes ``folder/…`` that hold something."""
        try:
            with backend_errors():
                return [
                    path.rstrip("/").rpartition("/")[2] for path in self._system.ls(f"{self._root}/{folder}", False)
                ]
        except FileNotFoundError:
            return []

    def _below(self, folder: str) -> str:
        return f"{self._root}/{folder}".rstrip("/")

    def _path(self, sha256: str) -> str:
        if not _SHA256.fullmatch(sha256):
            raise NotFoundError(f"{sha256!r} is not the name of an artifact")
        return f"{self._root}/{sha256[:2]}/{sha256}"

    def _write(self, artifact: Artifact, source: BinaryIO, *, verify: bool) -> None:
        path = self._path(artifact.sha256)
        try:
            with backend_errors():
                if self._size(path) == artifact.size and not (verify and self._is_damaged(artifact)):
                    return
                self._copy(source, path) if self._local else self._upload(source, path, size=artifact.size)
        except FileNotFoundError as error:
            raise StorageError(f"the storage has no place for {artifact.sha256}") from error

    def _is_damaged(self, artifact: Artifact) -> bool:
        """Whether what lies there has other bytes, or is deleted this moment."""
        try:
            with self.open(artifact.sha256) as stored:
                return _measure(stored) != artifact
        except (NotFoundError, FileNotFoundError):
            return True

    def _size(self, path: str) -> int | None:
        """Bytes at ``path``; None: there is nothing."""
        try:
            return int(self._system.info(path)["size"])
        except FileNotFoundError:
            return None

    def _copy(self, source: BinaryIO, path: str) -> None:
        """On a disk the file takes its name by a rename, once it is whole."""
        folder, _, name = path.rpartition("/")
        temporary = Path(folder) / f".{name}.{uuid.uuid4().hex}"
        try:
            with _create(temporary) as target:
                shutil.copyfileobj(source, target, CHUNK)
                target.flush()
                os.fsync(target.fileno())
            temporary.replace(path)
            _sync(temporary.parent, temporary.parent.parent)  # the names: a row that names the file comes next
        finally:
            temporary.unlink(missing_ok=True)

    def _upload(self, source: BinaryIO, path: str, *, size: int) -> None:
        """In an object store an object appears whole: with its only request, or when its parts are put together."""
        if size <= BLOCK:
            self._system.pipe_file(path, source.read())
            return
        target = self._system.open(path, "wb", block_size=BLOCK, autocommit=False)
        try:
            shutil.copyfileobj(source, target, CHUNK)
            target.close()
            target.commit()
        except BaseException:
            # Closing, which leaving a `with` block would do, puts together the parts that came so far.
            target.closed = True
            target.discard()
            raise


def _create(path: Path) -> BinaryIO:
    """A new file, and the folders above it, which another may remove in between because they are empty."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return path.open("wb")
        except FileNotFoundError:
            continue


def _sync(*folders: Path) -> None:
    """Put the names in them on the disk."""
    for folder in folders:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_empty(*folders: Path) -> None:
    """Each in turn, up to the first that holds something."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _measure(file: BinaryIO) -> Artifact:
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return Artifact(digest.hexdigest(), size)


def _chunks(source: BinaryIO) -> Iterator[bytes]:
    while True:
        with backend_errors():
            chunk = source.read(CHUNK)
        if not chunk:
            return
        yield chunk
