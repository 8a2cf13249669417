"""Reading a stranger's zip: members are looked at before they are read, read in memory, and never extracted."""

from __future__ import annotations

import io
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from models.data.images import DataError

# A small member may compress well without harm: black pictures do.
RATIO_CHECKED_ABOVE = 1 << 20
_READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


_DIRECTORY_ENTRY = b"PK\x01\x02"
_ENTRY_BYTES = 200
"""Of the archive's directory, a member on average: 46 bytes, its name, and times and owners."""


@dataclass(frozen=True)
class UploadLimits:
    """What an upload may ask of the machine that reads it. Sizes are in bytes, after decompression.

    ``image_bytes``: the encoded file of one image; ``array_bytes``: an array that is not read in pieces;
    ``total_bytes``: all members together, and all decoded images.
    """

    members: int = 1_000_000
    member_bytes: int = 4 << 30
    total_bytes: int = 8 << 30
    ratio: float = 200.0
    image_bytes: int = 64 << 20
    array_bytes: int = 1 << 30
    image_pixels: int = 4096 * 4096


@contextmanager
def open_archive(path: Path, limits: UploadLimits) -> Iterator[zipfile.ZipFile]:
    """The zip at ``path`` once all its members are found harmless.

    Raises :class:`DataError` for a file that is no zip, an absolute path or ``..``, a symbolic link, an encrypted
    member, two members of one name, and for more or larger data than ``limits`` allows.
    """
    with _Guarded(path, most_members=limits.members) as file, _directory_of(file) as archive:
        members = archive.infolist()
        seen: set[str] = set()
        for member in members:
            _check_member(member, limits)
            if member.filename in seen:
                raise DataError(f"{member.filename!r} is in the archive twice")
            seen.add(member.filename)
        total = sum(member.file_size for member in members)
        if total > limits.total_bytes:
            raise DataError(f"{total} bytes when unpacked; at most {limits.total_bytes} are accepted")
        # Members of which each is harmless may lie over one another and share what they unpack.
        _check_ratio("the archive", total, packed=path.stat().st_size, limits=limits)
        yield archive


class _Guarded(io.FileIO):
    """A file that counts a zip's members before they become objects: its directory is read in one piece."""

    def __init__(self, path: Path, *, most_members: int) -> None:
        super().__init__(path)
        self._most_members: int | None = most_members

    def read(self, size: int | None = -1, /) -> bytes:
        most = self._most_members
        if most is not None and size is not None and size > most * _ENTRY_BYTES:
            raise DataError(f"a directory of {size} bytes; at most {most} members are accepted")
        data = super().read(size) or b""
        if most is not None and (members := data.count(_DIRECTORY_ENTRY)) > most:
            raise DataError(f"{members} members; at most {most} are accepted")
        return data

    def trust(self) -> None:
        """Stop counting."""
        self._most_members = None


def _directory_of(file: _Guarded) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(file)
    except DataError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"not a readable zip or npz file: {error}") from error
    file.trust()
    return archive


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The whole member, at most as long as it declares itself; raises :class:`DataError` if it is damaged."""
    with opened(archive, member) as file:
        return file.read(member.file_size)


@contextmanager
def opened(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
    """The member for reading; what fails inside for its damage is raised as :class:`DataError`."""
    try:
        with archive.open(member) as file:
            yield file
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{member.filename!r} cannot be read: {error}") from error


def _check_member(member: zipfile.ZipInfo, limits: UploadLimits) -> None:
    name = member.filename
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or name[1:2] == ":":
        raise DataError(f"{name!r} points outside the archive; relative paths without '..' are accepted")
    # The upper half is the Unix mode, where the archive was made on a system that has one.
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(f"{name!r} is a link or a special file; plain files are accepted")
    if member.flag_bits & 0x1:
        raise DataError(f"{name!r} is encrypted; upload the archive without a password")
    if member.compress_type not in _READABLE:
        raise DataError(f"{name!r} is compressed in an uncommon way; stored and deflated members are accepted")
    if member.file_size > limits.member_bytes:
        raise DataError(f"{name!r} has {member.file_size} bytes; at most {limits.member_bytes} are accepted")
    _check_ratio(repr(name), member.file_size, packed=member.compress_size, limits=limits)


def _check_ratio(what: str, size: int, *, packed: int, limits: UploadLimits) -> None:
    if size > RATIO_CHECKED_ABOVE and size > limits.ratio * packed:
        raise DataError(f"{what} unpacks to more than {limits.ratio:g} times its size, as a zip bomb does")
