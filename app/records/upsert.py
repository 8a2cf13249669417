"""``INSERT … ON CONFLICT``, which SQLite and PostgreSQL spell alike but SQLAlchemy keeps apart."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.records.base import Base


def insert(session: Session, record: type[Base]) -> Any:
    """An ``INSERT`` for the session's database that has ``on_conflict_do_nothing`` and ``on_conflict_do_update``."""
    dialect = session.get_bind().dialect.name
    return postgresql.insert(record) if dialect == "postgresql" else sqlite.insert(record)
