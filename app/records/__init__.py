"""The tables, as SQLAlchemy records."""

from app.records.base import Base, epoch_now, new_id, utc_now
from app.records.jobs import (
    FINAL,
    LISTED,
    UNFINISHED,
    Checkpoint,
    Job,
    JobKind,
    JobLabel,
    JobStatus,
    MetricPoint,
    WorkerRecord,
)
from app.records.registry import IdempotencyKey, Model, ModelAlias, ModelVersion, StoredDataset
from app.records.tokens import ApiToken

__all__ = [
    "FINAL",
    "LISTED",
    "UNFINISHED",
    "ApiToken",
    "Base",
    "Checkpoint",
    "IdempotencyKey",
    "Job",
    "JobKind",
    "JobLabel",
    "JobStatus",
    "MetricPoint",
    "Model",
    "ModelAlias",
    "ModelVersion",
    "StoredDataset",
    "WorkerRecord",
    "epoch_now",
    "new_id",
    "utc_now",
]
