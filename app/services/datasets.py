"""Uploaded data sets. The built-in ones are in ``models.data.DATASETS``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.errors import ConflictError, NotFoundError
from app.records import StoredDataset
from app.services.tokens import OPERATOR, Principal
from models.data.spec import DATASETS


@dataclass(frozen=True)
class DatasetInfo:
    """A data set, built in or uploaded. ``sha256`` is of the upload; a built-in one's is known to its result only."""

    name: str
    source: str
    kind: Literal["builtin", "upload"]
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train_size: int
    test_size: int
    sha256: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def register(
    session: Session,
    *,
    name: str,
    format: str,
    sha256: str,
    size: int,
    classes: list[str],
    image_shape: tuple[int, int, int],
    train_size: int,
    test_size: int,
    mean: list[float],
    std: list[float],
    account: str | None = None,
) -> StoredDataset:
    """Writing. Record a checked upload that lies in the storage under ``sha256``.

    The same name with the same bytes answers the record that is there; other bytes, another account's name, or that of
    a built-in data set: ConflictError.
    """
    found = refuse_taken(session, name, sha256=sha256, account=account)
    if found is not None:
        return found
    values: dict[str, Any] = {"classes": list(classes), "image_shape": list(image_shape), "mean": list(mean)}
    record = StoredDataset(
        name=name,
        format=format,
        sha256=sha256,
        size=size,
        train_size=train_size,
        test_size=test_size,
        std=list(std),
        account=account,
        **values,
    )
    session.add(record)
    session.flush()
    return record


def refuse_taken(session: Session, name: str, *, sha256: str, account: str | None) -> StoredDataset | None:
    """The account's record of these very bytes under ``name``; None: the name is free; ConflictError: it is not."""
    if name in DATASETS:
        raise ConflictError(f"{name!r} is a built-in data set; give another name")
    found = session.get(StoredDataset, name)
    if found is not None and found.account != account:
        raise ConflictError(f"the name {name!r} is taken; give another name")
    if found is not None and found.sha256 != sha256:
        raise ConflictError(f"data set {name!r} exists with other contents; give another name")
    return found


def find(session: Session, name: str, *, asking: Principal = OPERATOR) -> DatasetInfo:
    """The data set called ``name``; NotFoundError, also for another account's, lists what there is."""
    if name in DATASETS:
        return _builtin(name)
    record = session.get(StoredDataset, name)
    if record is None or not asking.owns(record.account):
        names = _theirs(select(StoredDataset.name), asking).order_by(StoredDataset.name).limit(50)
        known = [*DATASETS, *session.scalars(names)]
        raise NotFoundError(f"there is no data set {name!r}; known: {', '.join(known)}")
    return _uploaded(record)


def _theirs(query: Select[Any], asking: Principal) -> Select[Any]:
    return query if asking.owns(None) else query.where(StoredDataset.account == asking.account)


def list_datasets(session: Session, *, asking: Principal = OPERATOR) -> list[DatasetInfo]:
    """Their uploads, newest first, then the built-in ones by name."""
    query = select(StoredDataset).order_by(StoredDataset.created_at.desc(), StoredDataset.name)
    uploads = session.scalars(_theirs(query, asking))
    return [*(_uploaded(record) for record in uploads), *(_builtin(name) for name in DATASETS)]


def _builtin(name: str) -> DatasetInfo:
    entry = DATASETS[name]
    return DatasetInfo(
        name=entry.name,
        source=entry.source,
        kind="builtin",
        classes=tuple(entry.classes),
        image_shape=entry.image_shape,
        train_size=entry.train_size,
        test_size=entry.test_size,
    )


def _uploaded(record: StoredDataset) -> DatasetInfo:
    channels, height, width = record.image_shape
    return DatasetInfo(
        name=record.name,
        source=f"upload ({record.format})",
        kind="upload",
        classes=tuple(record.classes),
        image_shape=(channels, height, width),
        train_size=record.train_size,
        test_size=record.test_size,
        sha256=record.sha256,
        mean=tuple(record.mean),
        std=tuple(record.std),
    )
