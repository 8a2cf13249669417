"""Uploaded folders: a zip of ``train/<class>/*.png|jpg`` and ``test/<class>/…``, perhaps inside one outer folder."""

from __future__ import annotations

import io
import itertools
import os
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from models.data.archive import UploadLimits, read_member
from models.data.images import DataError
from models.data.pictures import CostlyPictureError, refuse_costly
from models.data.split import CHUNK_BYTES, Upload, UploadedSplit, check_classes

SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG")
CHUNK = 1024
GROUP = 64  # images a thread takes at once: small ones decode faster than a thread is woken
_MIXED_DEPTH = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
LAYOUT = "a zip of train/<class>/*.png|jpg and test/<class>/*.png|jpg is accepted"


def read_folder(archive: zipfile.ZipFile, limits: UploadLimits) -> Upload:
    """What the archive holds; classes are the folders' names in alphabetical order. Raises :class:`DataError`."""
    files = _images(archive)
    classes = tuple(sorted({name for split, name, _ in files if split == "train"}))
    if not classes:
        raise DataError(f"no training images; {LAYOUT}")
    if len(classes) < 2:
        raise DataError(f"only one class, {classes[0]!r}; at least two are needed")
    check_classes(classes)
    strange = sorted({name for _, name, _ in files} - set(classes))
    if strange:
        raise DataError(f"the test split has classes without training images: {', '.join(strange[:10])}")

    position = {name: index for index, name in enumerate(classes)}

    def split(name: str) -> UploadedSplit:
        chosen = [(position[label], member) for kind, label, member in files if kind == name]
        if not chosen:
            raise DataError(f"the {name} split is empty; {LAYOUT}")
        members = [member for _, member in chosen]
        return UploadedSplit(
            torch.tensor([label for label, _ in chosen]), lambda: _decoded(archive, members, limits=limits)
        )

    return Upload("zip", classes, split("train"), split("test"), grey_as_colour=True)


def _images(archive: zipfile.ZipFile) -> list[tuple[str, str, zipfile.ZipInfo]]:
    """(split, class, member) of every image, in the order of their paths, whatever the archive's own order."""
    members = [(_parts(member), member) for member in archive.infolist() if not member.is_dir()]
    members = [(parts, member) for parts, member in members if parts and not _is_clutter(parts)]
    if not members:
        raise DataError(f"the archive holds no files; {LAYOUT}")
    outer = {parts[0] for parts, _ in members}
    wrapped = len(outer) == 1 and not outer & {"train", "test"} and all(len(parts) > 1 for parts, _ in members)
    depth = 1 if wrapped else 0
    found = []
    for parts, member in sorted(members, key=lambda item: item[0]):
        inner = parts[depth:]
        if inner[0] not in ("train", "test") and len(inner) == 1:
            continue  # a README or a licence beside the splits
        if len(inner) != 3 or inner[0] not in ("train", "test"):
            raise DataError(f"{member.filename!r} is not where an image belongs; {LAYOUT}")
        if not inner[2].lower().endswith(SUFFIXES):
            raise DataError(f"{member.filename!r} is not named as an image; .png, .jpg and .jpeg are accepted")
        found.append((inner[0], inner[1], member))
    return found


def _parts(member: zipfile.ZipInfo) -> tuple[str, ...]:
    return PurePosixPath(member.filename).parts


def _is_clutter(parts: tuple[str, ...]) -> bool:
    """What desktop systems put into archives unasked."""
    return parts[0] == "__MACOSX" or parts[-1] in (".DS_Store", "Thumbs.db", "desktop.ini")


def _decoded(archive: zipfile.ZipFile, members: Sequence[zipfile.ZipInfo], *, limits: UploadLimits) -> Iterator[Tensor]:
    """RGB images uint8 (M, 3, H, W) in chunks; decoding runs in threads, since Pillow releases the lock for it.

    The first image's size is that of all, so that a chunk's memory is known before it is decoded.
    """

    def decode(member: zipfile.ZipInfo, size: tuple[int, int] | None = None) -> np.ndarray:
        if member.file_size > limits.image_bytes:
            raise DataError(
                f"{member.filename!r} has {member.file_size} bytes; at most {limits.image_bytes} for one image"
            )
        return decode_image(read_member(archive, member), name=member.filename, limits=limits, size=size)

    height, width, _ = decode(members[0]).shape
    if (total := 3 * width * height * len(members)) > limits.total_bytes:
        raise DataError(
            f"{len(members)} images of {width}×{height} pixels are {total} bytes in memory; "
            f"at most {limits.total_bytes} are accepted"
        )

    def decode_all(group: Sequence[zipfile.ZipInfo]) -> list[np.ndarray]:
        return [decode(member, (width, height)) for member in group]

    size = min(CHUNK, max(1, CHUNK_BYTES // (3 * width * height)))
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(members), size):
            chunk = members[start : start + size]
            groups = pool.map(decode_all, [chunk[first : first + GROUP] for first in range(0, len(chunk), GROUP)])
            images = list(itertools.chain.from_iterable(groups))
            yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def decode_image(data: bytes, *, name: str, limits: UploadLimits, size: tuple[int, int] | None = None) -> np.ndarray:
    """RGB pixels uint8 (H, W, 3) of a PNG or JPEG file; a grey one gets three equal channels.

    ``size``: (width, height) that it must have. Raises :class:`DataError` naming the file if it is no such image, too
    large, truncated, or deeper than 8 bits; the first two before a pixel is decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            refuse_costly(image, data, max_pixels=limits.image_pixels)
            if size is not None and image.size != size:
                raise DataError(
                    f"{name!r} has {image.width}×{image.height} pixels where others have {size[0]}×{size[1]}; "
                    "all images must be of one size"
                )
            if image.mode in _MIXED_DEPTH:
                raise DataError(f"{name!r} has more than 8 bits a channel; convert it to 8 bits")
            return np.asarray(image.convert("RGB"))
    except CostlyPictureError as error:
        raise DataError(f"{name!r}: {error}") from None
    except UnidentifiedImageError:
        raise DataError(f"{name!r} is not a PNG or JPEG image") from None
    except DataError:
        raise
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, IndexError and more on broken files.
        raise DataError(f"{name!r} cannot be decoded: {error}") from error
