"""The storage: what is put there comes back, and goes away again."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import fsspec

from app.doctor.findings import Finding, Site, failed, ok, warning
from app.records import new_id
from app.storage import Storage

ADVICE = "check CLEAD_STORAGE_URL, its credentials, and that every host reaches the same place"
PROBE_BYTES = 100_000


def storage(site: Site) -> Iterator[Finding]:
    """Put, get with a look at the hash, and delete, in a folder of its own that is removed."""
    url = site.settings.storage_url
    try:
        system, root = fsspec.url_to_fs(url)
        # A folder that is not there may be a disk that is not mounted: nothing must be written in its place.
        missing = "file" in system.protocol and not system.isdir(root)
    except Exception as error:  # each backend of fsspec has errors of its own
        yield failed("storage", f"cannot be opened: {type(error).__name__}: {error}", advice=ADVICE)
        return
    if missing:
        advice = "it is made with the first artifact; if it should be there already, mount it"
        site.storage = Storage(url)  # whether that matters is told by the weights
        yield warning("storage", f"the folder {root} does not exist", advice=advice)
        return
    try:
        _round_trip(Storage(url).scoped(f"doctor-{new_id()}"))
    except Exception as error:  # as above; and whatever it was, it is told
        yield failed("storage", f"a round trip failed: {type(error).__name__}: {error}", advice=ADVICE)
        return
    site.storage = Storage(url)
    yield ok("storage", "an object was put, read back with the right hash, and deleted")


def _round_trip(probe: Storage) -> None:
    try:
        artifact = probe.put_bytes(secrets.token_bytes(PROBE_BYTES))
        with tempfile.TemporaryDirectory(prefix="clead-doctor-") as folder:
            probe.fetch(artifact.sha256, Path(folder) / "probe")
        probe.delete(artifact.sha256)
        if probe.exists(artifact.sha256):
            raise OSError("a deleted object is still there")
    finally:
        probe.clear()
