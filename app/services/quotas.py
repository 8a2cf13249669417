"""How much one account may use: unfinished jobs and stored bytes.

Both are counted where they lie, so that nothing can drift; the account's tokens are locked meanwhile, so that two
requests at once do not both take the last place.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from app.errors import OverloadedError
from app.records import UNFINISHED, ApiToken, Checkpoint, Job, Model, ModelVersion, StoredDataset
from app.services.tokens import Principal

RETRY_SECONDS = 60.0


def admit_job(session: Session, asking: Principal) -> None:
    """Writing. Raise OverloadedError if the account has as many unfinished jobs as it may, or its storage is full.

    A protocol or a large evaluation counts as one.
    """
    most = asking.limits.unfinished_jobs
    _lock(session, asking)
    if most and (found := unfinished_jobs(session, asking.account)) >= most:
        raise OverloadedError(
            f"{found} jobs of {asking.account!r} are queued or running, and {most} may be; wait for one to end",
            retry_after=RETRY_SECONDS,
        )
    admit_bytes(session, asking, size=0)


def admit_bytes(session: Session, asking: Principal, *, size: int) -> None:
    """Writing. Raise OverloadedError if ``size`` bytes more are too many for the account, or it is full already."""
    most = asking.limits.stored_bytes
    if not most:
        return
    _lock(session, asking)
    used = stored_bytes(session, asking.account)
    if used + size > most or used == most:
        raise OverloadedError(
            f"{used} of the {most} bytes that {asking.account!r} may store are used; these would be {size} more: "
            "ask for a larger limit, or for models to be deleted (scope admin)",
            retry_after=RETRY_SECONDS,
        )


def unfinished_jobs(session: Session, account: str | None) -> int:
    """Jobs that the account submitted and that are queued or running."""
    # Not among the conditions: SQLite would look for them in the index of parents, where nearly all jobs have none.
    submitted = func.count().filter(Job.parent_id.is_(None))
    return session.scalar(select(submitted).where(Job.account == account, UNFINISHED)) or 0


def stored_bytes(session: Session, account: str | None) -> int:
    """Bytes of the account's data sets, of all versions of its models, and of the checkpoints of its jobs."""
    sizes = (
        select(func.sum(StoredDataset.size)).where(StoredDataset.account == account),
        select(func.sum(ModelVersion.size))
        .join(Model, Model.name == ModelVersion.name)
        .where(Model.account == account),
        select(func.sum(Checkpoint.size)).where(
            exists().where(Job.id == Checkpoint.job_id, Job.account == account)  # jobs are many, checkpoints few
        ),
    )
    return sum(_sum(session, query) for query in sizes)


def _sum(session: Session, query: Any) -> int:
    return int(session.scalar(query) or 0)


def _lock(session: Session, asking: Principal) -> None:
    """The tokens of an account, in one order for everybody; SQLite's writer is alone anyhow."""
    if asking.account is not None:
        session.execute(
            select(ApiToken.id).where(ApiToken.name == asking.account).order_by(ApiToken.id).with_for_update()
        )
