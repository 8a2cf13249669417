"""What differs between fsspec's file systems: how they are opened, what they raise, what they call a time."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec

from app.errors import DomainError, UnavailableError

log = logging.getLogger(__name__)

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0


class StorageError(UnavailableError):
    """The storage does not answer, or refuses."""


def open_system(url: str) -> tuple[Any, str]:
    """The file system of ``url``, which nobody else uses, and the path in it."""
    system, path = fsspec.url_to_fs(url, **_options(url))
    if hasattr(system, "retries"):
        system.retries = 2  # s3fs's own, which also begins a broken read anew, around those of botocore
    return system, path


def _options(url: str) -> dict[str, Any]:
    """Other processes write as well, so no listing is remembered; and a dead S3 is to be noticed within seconds.

    Endpoint, region and keys come from where botocore looks for them: ``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ….
    """
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if url.startswith(("s3://", "s3a://")):
        retries = {"mode": "standard", "total_max_attempts": 2}
        options["config_kwargs"] = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
            "retries": retries,
        }
    return options


@contextmanager
def backend_errors() -> Iterator[None]:
    """StorageError for whatever the file system raises: each of fsspec's has errors of its own beside OSError.

    FileNotFoundError passes: what it means is for the caller to say. So does a full disk: waiting does not help there.
    """
    try:
        yield
    except (DomainError, FileNotFoundError):
        raise
    except Exception as error:  # each backend of fsspec has errors of its own; it is logged and told
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        log.warning("the storage failed: %s: %s", type(error).__name__, error)
        raise StorageError(f"the storage does not answer ({type(error).__name__})") from error


def modified(info: dict[str, Any]) -> float:
    """Each file system calls it something else."""
    return float(info["LastModified"].timestamp() if "LastModified" in info else info["mtime"])
