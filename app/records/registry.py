"""Registered models and uploaded data sets."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, ForeignKeyConstraint, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.records.base import Base, utc_now


class Model(Base):
    """A name that versions are registered under. ``next_version`` never goes back, so that no number is used twice."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    next_version: Mapped[int] = mapped_column(default=1)
    account: Mapped[str | None] = mapped_column(String(100), index=True)
    """Who may add versions, beside administrators: the account that registered the first one."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class ModelVersion(Base):
    """Weights (a safetensors artifact) and the card that rebuilds the network from them."""

    __tablename__ = "model_versions"
    __table_args__ = (UniqueConstraint("job_id"),)

    name: Mapped[str] = mapped_column(ForeignKey("models.name", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    card: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


class ModelAlias(Base):
    """A movable name of one version, such as ``production``."""

    __tablename__ = "model_aliases"
    __table_args__ = (
        ForeignKeyConstraint(
            ["name", "version"], ["model_versions.name", "model_versions.version"], ondelete="CASCADE"
        ),
    )

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    alias: Mapped[str] = mapped_column(String(100), primary_key=True)
    version: Mapped[int]


class StoredDataset(Base):
    """An uploaded data set: the checked file lies in the storage under ``sha256``."""

    __tablename__ = "datasets"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    format: Mapped[str] = mapped_column(String(8))
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    classes: Mapped[list[Any]]
    image_shape: Mapped[list[Any]]
    train_size: Mapped[int]
    test_size: Mapped[int]
    mean: Mapped[list[Any]]
    std: Mapped[list[Any]]
    account: Mapped[str | None] = mapped_column(String(100), index=True)
    """Who sees it, beside administrators: the account that uploaded it."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class IdempotencyKey(Base):
    """The first answer to a creating request that carried a key."""

    __tablename__ = "idempotency_keys"

    scope: Mapped[str] = mapped_column(String(300), primary_key=True)
    """Method and path of the request, and the account that sent it."""
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    response: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
