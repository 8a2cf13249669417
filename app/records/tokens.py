"""API tokens. What a client presents is never stored: only a keyed hash of it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, String
from sqlalchemy.orm import Mapped, mapped_column

from app.records.base import Base, new_id, utc_now


class ApiToken(Base):
    """One token. A row is never deleted: a service that had a token once never answers everybody again."""

    __tablename__ = "api_tokens"
    __table_args__ = (CheckConstraint("scope IN ('classify','submit','admin')", name="scope"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(100))
    """The account that it opens: tokens of one name own the same jobs, so that one can replace another."""
    scope: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    """HMAC-SHA256 of the token under the service's secret key, in hexadecimal digits."""
    hint: Mapped[str] = mapped_column(String(20))
    """The token's first characters, by which its owner tells it from others."""
    requests_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    unfinished_jobs: Mapped[int | None] = mapped_column(BigInteger)
    stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Limits of its own, 0 for none; null: the service's."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]
    """Last use, exact to a minute."""
