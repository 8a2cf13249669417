"""What a job measured while it ran: whole series, thinned ones, and what is new."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, cast, func, literal, select
from sqlalchemy.orm import Session

from app.records import MetricPoint

Series = list[list[float]]
"""``[[step, value], …]`` by step."""


def metric_series(session: Session, job_id: str, *, points: int | None = None) -> dict[str, Series]:
    """Every series of the job, by name.

    With ``points``, one of more than so many is thinned evenly over its steps: of so many places from the first step to
    the last, each at the same distance from the next, it has the first point at or after the place. The first and the
    last point stay; of one point, the last. However long a series is, no more of it is read than is answered.
    """
    if points is None:
        query = select(MetricPoint.series, MetricPoint.step, MetricPoint.value).where(MetricPoint.job_id == job_id)
        found: dict[str, Series] = {}
        for name, step, value in session.execute(query.order_by(MetricPoint.series, MetricPoint.step)):
            found.setdefault(name, []).append([step, value])
        return found
    return {name: _thinned(session, job_id, name, points=points) for name in _names(session, job_id)}


def _names(session: Session, job_id: str) -> list[str]:
    """Names of the job's series, each found from the one before it: a series' points are skipped and not read."""
    first = select(func.min(MetricPoint.series).label("name")).where(MetricPoint.job_id == job_id)
    names = first.cte("names", recursive=True)
    following = select(func.min(MetricPoint.series)).where(
        MetricPoint.job_id == job_id, MetricPoint.series > names.c.name
    )
    names = names.union_all(select(following.correlate(names).scalar_subquery()).where(names.c.name.is_not(None)))
    return list(session.scalars(select(names.c.name).where(names.c.name.is_not(None))))


def _thinned(session: Session, job_id: str, name: str, *, points: int) -> Series:
    of_series = (MetricPoint.job_id == job_id, MetricPoint.series == name)
    query = select(MetricPoint.step, MetricPoint.value).where(*of_series).order_by(MetricPoint.step)
    head = _rows(session, query.limit(points + 1))
    if len(head) <= points:
        return head
    if points == 1:
        return _rows(session, query.order_by(None).order_by(MetricPoint.step.desc()).limit(1))
    first = int(head[0][0])
    last = session.execute(select(func.max(MetricPoint.step)).where(*of_series)).scalar_one()
    place = _places(first, last, count=points)
    nearest = select(func.min(MetricPoint.step)).where(*of_series, MetricPoint.step >= place)
    chosen = select(nearest.scalar_subquery().label("step")).select_from(place.table).distinct().subquery()
    return _rows(session, query.join(chosen, chosen.c.step == MetricPoint.step))


def _places(first: int, last: int, *, count: int) -> Any:
    """The column of a table with ``count`` even places from ``first`` to ``last``, rounded up to whole steps."""
    number = select(cast(literal(0), BigInteger).label("number")).cte("numbers", recursive=True)
    number = number.union_all(select(number.c.number + 1).where(number.c.number < count - 1))
    gaps = count - 1
    step = literal(first) + (number.c.number * (last - first) + gaps - 1) // gaps
    return select(step.label("place")).subquery("places").c.place


def _rows(session: Session, query: Any) -> Series:
    return [[step, value] for step, value in session.execute(query)]


def metrics_after(session: Session, job_id: str, *, after: int, limit: int = 1000) -> list[MetricPoint]:
    """Points that arrived after the one with id ``after``, in order of arrival."""
    query = select(MetricPoint).where(MetricPoint.job_id == job_id, MetricPoint.id > after)
    return list(session.scalars(query.order_by(MetricPoint.id).limit(limit)))
