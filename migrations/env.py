"""Run by Alembic: :func:`migrations.upgrade` hands over the connection, whose transaction is its own."""

from __future__ import annotations

from alembic import context

from app.records import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    compare_type=True,
    transactional_ddl=False,  # the caller's transaction holds all of it
)
context.run_migrations()
