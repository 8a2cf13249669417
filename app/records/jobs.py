"""Jobs and what they leave behind while they run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    bindparam,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.records.base import Base, new_id, utc_now

JobKind = Literal["pretrain", "probe", "train", "evaluate", "corruptions", "protocol", "shard", "merge"]
JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]
BIG_ID = BigInteger().with_variant(Integer(), "sqlite")  # SQLite counts up in INTEGER columns alone, which are 64 bits
FINAL: tuple[JobStatus, ...] = ("succeeded", "failed", "cancelled")


class Job(Base):
    """One run. ``lease_until`` is in epoch seconds of the database's clock; ``owner`` and ``attempt`` fence writes."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("parent_id", "step_key"),
        CheckConstraint("status IN ('queued','running','succeeded','failed','cancelled')", name="status"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    kind: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16), default="queued")
    queue: Mapped[str | None] = mapped_column(String(16))
    """Queue that workers take it from; null for a job whose children do the work: it is advanced and never claimed."""
    spec: Mapped[dict[str, Any]]
    register_as: Mapped[str | None] = mapped_column(String(100))
    account: Mapped[str | None] = mapped_column(String(100))
    """Whose it is: the name of the token that submitted it; null where no token was asked for."""
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
    progress: Mapped[dict[str, Any] | None]
    examples: Mapped[list[Any] | None]
    """Evaluations: ``[{index, label, …, clean, adversarial, difference: sha256 of a PNG}]``."""

    parent_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    step_key: Mapped[str | None] = mapped_column(String(200))

    attempt: Mapped[int] = mapped_column(default=0)
    failures: Mapped[int] = mapped_column(default=0)
    """Deaths of the worker or of its child since the last new checkpoint."""
    failure: Mapped[str | None] = mapped_column(Text)
    """Cause of the last death."""
    owner: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[float | None] = mapped_column(Float(53))
    cancel_requested: Mapped[bool] = mapped_column(default=False)

    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    labels: Mapped[list[JobLabel]] = relationship(
        lazy="selectin", cascade="all, delete-orphan", order_by="JobLabel.key"
    )


def _literally(values: Sequence[str]) -> Any:
    """Values written into the statement: a partial index is used where a query repeats its condition as it stands."""
    return bindparam(None, values, expanding=True, literal_execute=True)


LISTED: ColumnElement[bool] = Job.kind.not_in(_literally(("shard", "merge")))
"""The jobs that a list shows unless a kind is asked for: all but the parts that an evaluation cuts itself into."""
UNFINISHED: ColumnElement[bool] = Job.status.in_(_literally(("queued", "running")))
"""The jobs that wait for a worker, or for the end of one: few beside all others."""


# A list goes through one of these from the newest on: a page is read and nothing is sorted, whatever it is filtered by.
# With a status or a kind, an account's own are told from others' inside the index, which is quick enough.
Index("ix_jobs_kind_id_account", Job.kind, Job.id, Job.account)
Index("ix_jobs_kind_status_id_account", Job.kind, Job.status, Job.id, Job.account)
Index("ix_jobs_listed_account_id", Job.account, Job.id, postgresql_where=LISTED, sqlite_where=LISTED)
Index("ix_jobs_listed_id", Job.id, postgresql_where=LISTED, sqlite_where=LISTED)
Index(
    "ix_jobs_listed_status_id_account",
    Job.status,
    Job.id,
    Job.account,
    postgresql_where=LISTED,
    sqlite_where=LISTED,
)
# A worker's question: the oldest job of a queue that waits or whose lease ran out.
Index(
    "ix_jobs_unfinished_queue_id_status",
    Job.queue,
    Job.id,
    Job.status,
    postgresql_where=UNFINISHED,
    sqlite_where=UNFINISHED,
)


class JobLabel(Base):
    """One ``key: value`` that the client put on a job."""

    __tablename__ = "job_labels"
    __table_args__ = (Index("ix_job_labels_key_value_job_id", "key", "value", "job_id"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[str] = mapped_column(String(500))


class MetricPoint(Base):
    """One value of a named series. ``id`` grows with arrival, which is what an event stream resumes from."""

    __tablename__ = "metric_points"
    __table_args__ = (UniqueConstraint("job_id", "series", "step"), Index("ix_metric_points_job_id_id", "job_id", "id"))

    id: Mapped[int] = mapped_column(BIG_ID, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    series: Mapped[str] = mapped_column(String(100))
    step: Mapped[int]
    value: Mapped[float] = mapped_column(Float(53))


class Checkpoint(Base):
    """A resume checkpoint of a job that lies in the storage; the last two of a job are kept."""

    __tablename__ = "checkpoints"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    attempt: Mapped[int]
    step: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class WorkerRecord(Base):
    """A worker that lives or lived; ``seen_at`` is in epoch seconds of the database's clock."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    queues: Mapped[list[Any]]
    job_id: Mapped[str | None] = mapped_column(String(32))
    seen_at: Mapped[float] = mapped_column(Float(53), index=True)
    started_at: Mapped[datetime] = mapped_column(default=utc_now)
