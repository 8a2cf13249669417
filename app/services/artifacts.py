"""Storing what rows name, and deleting what none names any more, without a gap between the two.

Equal bytes are one artifact, so a put may find what another is about to delete. Both meet in a lock of the database,
one a folder of the storage: whoever writes rows that name artifacts holds it with others until the commit, and looks
once more that they are there; whoever deletes holds it alone while it asks which are named and deletes the rest.
On PostgreSQL it is an advisory lock, on SQLite the write lock that such transactions have anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.records.session import Database
from app.services import references
from app.storage import Artifact, Storage

LOCK = 0x636C6561
"""Tells these advisory locks from others of the same database."""
BATCH = 100
"""Artifacts deleted in one transaction: those who store in the same folder wait for it."""


class Deposit:
    """Files whose artifacts the rows of one transaction will name; they have to stay until it is committed."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._kept: list[tuple[str, Artifact, Path]] = []

    def put(self, path: Path, *, folder: str = "") -> Artifact:
        """Store the bytes of ``path``: before the transaction, since this is what takes long."""
        artifact = place(self._storage, folder).put_file(path)
        self._kept.append((folder, artifact, path))
        return artifact

    def secure(self, session: Session) -> None:
        """Writing, first in its transaction: the artifacts are there, and stay until it ends."""
        if _is_postgres(session):
            lock = text("SELECT pg_advisory_xact_lock_shared(:lock, hashtext(:folder))")
            for folder in sorted({folder for folder, _, _ in self._kept}):
                session.execute(lock, {"lock": LOCK, "folder": folder})
        for folder, artifact, path in self._kept:
            place(self._storage, folder).ensure(artifact, path)


def place(storage: Storage, folder: str) -> Storage:
    """The part of the storage that a reference's folder means."""
    return storage.scoped(folder) if folder else storage


def delete_unused(database: Database, storage: Storage, folder: str, *, names: Sequence[str]) -> list[str]:
    """Delete those artifacts of ``folder`` that no row needs; answers which. Not inside a transaction.

    OperationalError where the lock is not to be had within seconds.
    """
    deleted: list[str] = []
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        with database.writing() as session:
            _lock_alone(session, folder)
            used = references.used(session, folder, batch)
            for name in batch:
                if name not in used:
                    session.execute(select(1))  # fails if the server has taken the lock away
                    place(storage, folder).delete(name)
                    deleted.append(name)
    return deleted


def _lock_alone(session: Session, folder: str) -> None:
    """Nobody stores in ``folder`` for a row's sake until the transaction ends.

    It waits five seconds at most, since those who come later wait behind it. The server ends a transaction from which
    it hears nothing for a minute, more than one deletion takes: a host that is cut off does not keep the lock.
    """
    if _is_postgres(session):
        session.execute(text("SET LOCAL lock_timeout = '5s'"))
        lock = text("SELECT pg_advisory_xact_lock(:lock, hashtext(:folder))")
        session.execute(lock, {"lock": LOCK, "folder": folder})


def _is_postgres(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"
