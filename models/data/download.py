"""Fetching a public archive once, with progress and its checksum."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models.data.images import DataError, Progress

CHUNK = 1 << 20
TIMEOUT_SECONDS = 60.0


class DownloadError(DataError):
    """An archive could not be fetched, or is not the one expected."""


@contextmanager
def exclusive(folder: Path) -> Iterator[Path]:
    """``folder``, made if needed and held by this process alone: two workers must not unpack one archive at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def fetch(url: str, path: Path, *, md5: str, progress: Progress | None = None) -> Path:
    """Make ``path`` hold the file at ``url`` whose MD5 is ``md5`` (the publisher's checksum), in an exclusive folder.

    A file that does already is kept. ``progress`` counts bytes. Raises :class:`DownloadError` if the server fails or
    the checksum differs, OSError if the disk is full.
    """
    if path.is_file() and _md5(path) == md5:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        _receive(url, temporary, progress)
        found = _md5(temporary)
        if found != md5:
            raise DownloadError(f"{url} answered a file with MD5 {found}; {md5} is expected")
        temporary.replace(path)
    except OSError as error:  # as urllib's own are
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DownloadError(f"cannot download {url}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _receive(url: str, path: Path, progress: Progress | None) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "clead"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response, path.open("wb") as file:
        total = int(response.headers.get("Content-Length") or 0)
        done = 0
        while chunk := response.read(CHUNK):
            file.write(chunk)
            done += len(chunk)
            if progress is not None:
                progress(done, max(done, total), unit="byte", stage="download")
    if done < total:
        raise DownloadError(f"{url} broke off after {done} of {total} bytes")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
