"""Content-addressed artifacts (weights, checkpoints, uploads, pictures) on any fsspec URL: file://, s3://, memory://, …

An artifact's name is the SHA-256 of its bytes, so that equal bytes are kept once and a read can be verified.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import fsspec

from app.errors import NotFoundError, UnavailableError

CHUNK = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


class CorruptArtifactError(UnavailableError):
    """The bytes in the storage are not those that were put there."""


@dataclass(frozen=True)
class Artifact:
    """Stored bytes: their SHA-256 in hexadecimal and their number."""

    sha256: str
    size: int


class Storage:
    """Artifacts below one URL. Threads and processes may share it: a file appears whole or not at all."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._system, self._root = fsspec.url_to_fs(url)

    def scoped(self, folder: str) -> Storage:
        """A storage of its own below this one, whose artifacts may be deleted without a thought for other users."""
        return Storage(f"{self.url.rstrip('/')}/{folder}")

    def put_file(self, path: Path) -> Artifact:
        """Store the bytes of ``path``."""
        with path.open("rb") as file:
            artifact = _measure(file)
            file.seek(0)
            self._write(artifact, file)
        return artifact

    def put_bytes(self, data: bytes) -> Artifact:
        """Store ``data``."""
        artifact = Artifact(hashlib.sha256(data).hexdigest(), len(data))
        self._write(artifact, io.BytesIO(data))
        return artifact

    def open(self, sha256: str) -> BinaryIO:
        """The artifact for reading, unverified (use :meth:`fetch` before trusting bytes); NotFoundError."""
        try:
            return cast(BinaryIO, self._system.open(self._path(sha256), "rb"))
        except FileNotFoundError:
            raise NotFoundError(f"the storage holds no artifact {sha256}") from None

    def fetch(self, sha256: str, into: Path) -> Path:
        """Copy the artifact to the file ``into`` and verify it on the way; it appears there only when it is right.

        Raises NotFoundError, or :class:`CorruptArtifactError` if the bytes have changed.
        """
        into.parent.mkdir(parents=True, exist_ok=True)
        partial = into.with_name(f".{into.name}.{uuid.uuid4().hex}.part")
        digest = hashlib.sha256()
        try:
            with self.open(sha256) as source, partial.open("wb") as target:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    target.write(chunk)
            if digest.hexdigest() != sha256:
                raise CorruptArtifactError(f"artifact {sha256} is damaged: its bytes hash to {digest.hexdigest()}")
            partial.replace(into)
        finally:
            partial.unlink(missing_ok=True)
        return into

    def exists(self, sha256: str) -> bool:
        return bool(self._system.exists(self._path(sha256)))

    def size(self, sha256: str) -> int | None:
        """Bytes of the artifact; None if it is not there."""
        try:
            return int(self._system.size(self._path(sha256)))
        except FileNotFoundError:
            return None

    def delete(self, sha256: str) -> None:
        """Remove the artifact; one that is gone already is no error."""
        try:
            self._system.rm_file(self._path(sha256))
        except FileNotFoundError:
            return

    def clear(self) -> None:
        """Remove every artifact of this (scoped) storage."""
        try:
            self._system.rm(self._root, recursive=True)
        except FileNotFoundError:
            return

    def _path(self, sha256: str) -> str:
        if not _SHA256.fullmatch(sha256):
            raise NotFoundError(f"{sha256!r} is not the name of an artifact")
        return f"{self._root}/{sha256[:2]}/{sha256}"

    def _write(self, artifact: Artifact, source: BinaryIO) -> None:
        path = self._path(artifact.sha256)
        if self._system.exists(path) and self._system.size(path) == artifact.size:
            return
        folder = path.rpartition("/")[0]
        self._system.makedirs(folder, exist_ok=True)
        with self._new_file(f"{folder}/.{artifact.sha256}.{uuid.uuid4().hex}", path) as target:
            shutil.copyfileobj(source, target, CHUNK)

    @contextmanager
    def _new_file(self, temporary: str, path: str) -> Iterator[BinaryIO]:
        """A file that takes its name once it is whole: by a rename on disk; object stores do so by themselves."""
        if "file" not in self._system.protocol:
            with self._system.open(path, "wb") as target:
                yield target
            return
        try:
            with Path(temporary).open("wb") as target:
                yield target
                target.flush()
                os.fsync(target.fileno())
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)


def _measure(file: BinaryIO) -> Artifact:
    digest, size = hashlib.sha256(), 0
    while chunk := file.read(CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return Artifact(digest.hexdigest(), size)
