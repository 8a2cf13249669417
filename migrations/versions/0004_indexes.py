"""Indexes for lists, filters and the reaper at a million jobs.

All are made in the migration's one transaction, so on PostgreSQL writes to jobs and labels wait until it ends: some
seconds at a million jobs. Those of one column alone go: an index that begins with it does their work.
PostgreSQL also gets to know which values go with which key, which it otherwise takes for independent, so that it
expects far fewer jobs of a label than there are.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

LISTED = sa.text("kind NOT IN ('shard', 'merge')")
UNFINISHED = sa.text("status IN ('queued', 'running')")
NEW = {
    "ix_jobs_kind_id_account": (["kind", "id", "account"], None),
    "ix_jobs_kind_status_id_account": (["kind", "status", "id", "account"], None),
    "ix_jobs_listed_account_id": (["account", "id"], LISTED),
    "ix_jobs_listed_id": (["id"], LISTED),
    "ix_jobs_listed_status_id_account": (["status", "id", "account"], LISTED),
    "ix_jobs_unfinished_queue_id_status": (["queue", "id", "status"], UNFINISHED),
}
OLD = {
    "ix_jobs_account": ["account"],
    "ix_jobs_kind": ["kind"],
    "ix_jobs_parent_id": ["parent_id"],
    "ix_jobs_queue_status_id": ["queue", "status", "id"],
    "ix_jobs_status": ["status"],
}


def upgrade() -> None:
    # The new ones first: a dropped index keeps readers out, too, until all of this is committed.
    for name, (columns, where) in NEW.items():
        op.create_index(name, "jobs", columns, postgresql_where=where, sqlite_where=where)
    op.create_index("ix_job_labels_key_value_job_id", "job_labels", ["key", "value", "job_id"])
    for name in OLD:
        op.drop_index(name, table_name="jobs")
    op.drop_index("ix_job_labels_key_value", table_name="job_labels")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("CREATE STATISTICS st_job_labels_key_value (dependencies, mcv) ON key, value FROM job_labels")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP STATISTICS st_job_labels_key_value")
    op.drop_index("ix_job_labels_key_value_job_id", table_name="job_labels")
    op.create_index("ix_job_labels_key_value", "job_labels", ["key", "value"])
    for name in NEW:
        op.drop_index(name, table_name="jobs")
    for name, old in OLD.items():
        op.create_index(name, "jobs", old)
