"""What a job measured while it ran: whole series, thinned ones, and what is new."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Select, String, cast, column, func, literal, select, true, values
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
    query = select(MetricPoint.series, MetricPoint.step, MetricPoint.value).where(MetricPoint.job_id == job_id)
    query = query.order_by(MetricPoint.series, MetricPoint.step)
    if points is None:
        return _by_name(session.execute(query))
    spans = _spans(session, job_id, points=points)
    whole = [span.name for span in spans if not span.thinned]
    found = _by_name(session.execute(query.where(MetricPoint.series.in_(whole)))) if whole else {}
    thinned = [span for span in spans if span.thinned]
    if thinned:
        lateral = session.get_bind().dialect.name == "postgresql"
        found |= _by_name(session.execute(_nearest(job_id, thinned, points=points, lateral=lateral)))
    return {span.name: found[span.name] for span in spans}


def _by_name(rows: Iterable[Any]) -> dict[str, Series]:
    """``(name, step, value)`` by name; a point that comes twice in a row is one."""
    found: dict[str, Series] = {}
    for name, step, value in rows:
        series = found.setdefault(name, [])
        if not series or series[-1][0] != step:
            series.append([step, value])
    return found


class _Span(NamedTuple):
    name: str
    first: int
    last: int
    thinned: bool


def _spans(session: Session, job_id: str, *, points: int) -> list[_Span]:
    """The job's series by name, each found from the one before it: a series' points are skipped and not read."""
    of_job = MetricPoint.job_id == job_id
    names = select(func.min(MetricPoint.series).label("name")).where(of_job).cte("names", recursive=True)
    following = select(func.min(MetricPoint.series)).where(of_job, MetricPoint.series > names.c.name)
    names = names.union_all(select(following.correlate(names).scalar_subquery()).where(names.c.name.is_not(None)))
    of_series = (of_job, MetricPoint.series == names.c.name)
    first, last = (select(end(MetricPoint.step)).where(*of_series).scalar_subquery() for end in (func.min, func.max))
    beyond = select(MetricPoint.step).where(*of_series).order_by(MetricPoint.step).offset(points).limit(1)
    query = select(names.c.name, first, last, beyond.scalar_subquery().is_not(None)).where(names.c.name.is_not(None))
    return [_Span(*row) for row in session.execute(query)]


def _nearest(job_id: str, spans: Sequence[_Span], *, points: int, lateral: bool) -> Select[Any]:
    """The point at or after each of ``points`` even places of each series, by name and step; some come again.

    Each is found through the index, once with a ``lateral`` join, which SQLite has not, else once for its step and once
    for its value. A plain join could be planned as a scan of all points.
    """
    columns = (column("name", String), column("first", BigInteger), column("last", BigInteger))
    span = values(*columns, name="spans").data([span[:3] for span in spans]).cte("spans")
    number = select(cast(literal(0), BigInteger).label("number")).cte("numbers", recursive=True)
    number = number.union_all(select(number.c.number + 1).where(number.c.number < points - 1))
    gaps = points - 1
    # Rounded up to whole steps.
    place = span.c.first + (number.c.number * (span.c.last - span.c.first) + gaps - 1) // gaps if gaps else span.c.last
    places = span.join(number, true())

    def at_place(*what: Any) -> Select[Any]:
        of_series = (MetricPoint.job_id == job_id, MetricPoint.series == span.c.name)
        found = select(*what).where(*of_series, MetricPoint.step >= place).order_by(MetricPoint.step).limit(1)
        return found.correlate(span, number)

    if lateral:
        point = at_place(MetricPoint.step, MetricPoint.value).lateral()
        query = select(span.c.name, point.c.step, point.c.value).select_from(places.join(point, true()))
    else:
        step, value = (at_place(what).scalar_subquery() for what in (MetricPoint.step, MetricPoint.value))
        query = select(span.c.name, step, value).select_from(places)
    return query.order_by(span.c.name, number.c.number)


class Arrived(NamedTuple):
    """A point and its id, which grows with every arrival."""

    id: int
    series: str
    step: int
    value: float


def metrics_after(session: Session, job_id: str, *, after: int, limit: int = 1000) -> list[Arrived]:
    """Points that arrived after the one with id ``after``, in order of arrival."""
    query = select(MetricPoint.id, MetricPoint.series, MetricPoint.step, MetricPoint.value)
    query = query.where(MetricPoint.job_id == job_id, MetricPoint.id > after).order_by(MetricPoint.id).limit(limit)
    return [Arrived(*row) for row in session.execute(query)]
