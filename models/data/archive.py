"""Reading a stranger's zip: members are looked at before they are read, read in memory, and never extracted."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from models.data.images import DataError

# A small member may compress well without harm: black pictures do.
RATIO_CHECKED_ABOVE = 1 << 20
_READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class UploadLimits:
    """What an upload may ask of the machine that reads it. Sizes are in bytes, after decompression."""

    members: int = 2_000_000
    member_bytes: int = 4 << 30
    total_bytes: int = 8 << 30
    ratio: float = 200.0
    image_pixels: int = 4096 * 4096


@contextmanager
def open_archive(path: Path, limits: UploadLimits) -> Iterator[zipfile.ZipFile]:
    """The zip at ``path`` once all its members are found harmless.

    Raises :class:`DataError` for a file that is no zip, an absolute path or ``..``, a symbolic link, an encrypted
    member, two members of one name, and for more or larger data than ``limits`` allows.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataError(f"not a readable zip or npz file: {error}") from error
    with archive:
        members = archive.infolist()
        if len(members) > limits.members:
            raise DataError(f"{len(members)} members; at most {limits.members} are accepted")
        seen: set[str] = set()
        for member in members:
            _check_member(member, limits)
            if member.filename in seen:
                raise DataError(f"{member.filename!r} is in the archive twice")
            seen.add(member.filename)
        total = sum(member.file_size for member in members)
        if total > limits.total_bytes:
            raise DataError(f"{total} bytes when unpacked; at most {limits.total_bytes} are accepted")
        yield archive


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The whole member, at most as long as it declares itself; raises :class:`DataError` if it is damaged."""
    try:
        with archive.open(member) as file:
            return file.read(member.file_size)
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
    if member.file_size > RATIO_CHECKED_ABOVE and member.file_size > limits.ratio * member.compress_size:
        raise DataError(f"{name!r} unpacks to more than {limits.ratio:g} times its size, as a zip bomb does")
