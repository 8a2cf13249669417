"""Whose a job, a data set and a model is, and a token's own limits."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

OWNED = ("jobs", "datasets", "models")
LIMITS = ("requests_per_minute", "unfinished_jobs", "stored_bytes")


def upgrade() -> None:
    for table in OWNED:
        op.add_column(table, sa.Column("account", sa.String(length=100), nullable=True))
        op.create_index(f"ix_{table}_account", table, ["account"])
    for limit in LIMITS:
        op.add_column("api_tokens", sa.Column(limit, sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for limit in LIMITS:
        op.drop_column("api_tokens", limit)
    for table in OWNED:
        op.drop_index(f"ix_{table}_account", table)
        op.drop_column(table, "account")
