"""The embedded broker: kombu's ``filesystem`` transport, with files that appear and leave the folder whole.

kombu's own writes messages and the table of an exchange's queues into their final files, and moves messages through the
system's temporary folder, so that a reader can meet a half-written one, which ends a Celery worker: for good, where a
killed process or a full disk left it so. Here each is one rename inside the folder.
"""

from __future__ import annotations

import fcntl
import time
import uuid
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import filesystem
from kombu.utils import json


class Channel(filesystem.Channel):
    """Messages are files named ``<time>_<uuid>.<queue>.msg``; the oldest is taken first."""

    def get_table(self, exchange: str) -> list[filesystem.exchange_queue_t]:
        """The queues of the exchange; none where a damaged file tells of them: each is bound by whoever uses it."""
        try:
            found = json.loads(self._table(exchange).read_text())  # type: ignore[no-untyped-call]
        except (FileNotFoundError, ValueError):
            return []
        return [filesystem.exchange_queue_t(*queue) for queue in found]

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        file = self._table(exchange)
        file.parent.mkdir(parents=True, exist_ok=True)
        bound = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
        with file.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            table = self.get_table(exchange)
            if bound not in table:
                writing = file.with_suffix(".writing")
                writing.write_text(json.dumps([bound, *table]))  # type: ignore[no-untyped-call]
                writing.replace(file)

    def _table(self, exchange: str) -> Path:
        return Path(self._exchange_file(exchange))  # type: ignore[no-untyped-call]

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:  # type: ignore[override]  # as in kombu's own
        folder = Path(self.data_folder_out)
        folder.mkdir(parents=True, exist_ok=True)  # it may have been wiped since the start
        name = f"{time.time_ns():020d}_{uuid.uuid4().hex}"
        writing = folder / f"{name}.{queue}.writing"
        try:
            writing.write_text(json.dumps(payload))  # type: ignore[no-untyped-call]
            writing.replace(folder / f"{name}.{queue}.msg")
        finally:
            writing.unlink(missing_ok=True)  # on a full disk; else it has its name

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        folder = Path(self.data_folder_in)
        for message in sorted(_waiting(folder, queue)):
            taken = message.with_suffix(f".{uuid.uuid4().hex}.taken")
            try:
                message.rename(taken)
            except FileNotFoundError:
                continue  # another worker was quicker
            payload = json.loads(taken.read_text())  # type: ignore[no-untyped-call]
            taken.unlink()
            return payload
        raise Empty

    def _size(self, queue: str) -> int:
        return len(_waiting(Path(self.data_folder_in), queue))


def _waiting(folder: Path, queue: str) -> list[Path]:
    return list(folder.glob(f"*.{queue}.msg"))  # empty, too, where the folder is gone


class Transport(filesystem.Transport):
    """What ``broker_transport`` names; polls ten times a second by default."""

    Channel = Channel
