"""A teacher has endpoints, a run has fallbacks, and a run can be paused."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Columns are added and dropped one by one: to make SQLite's table anew would drop rows that others refer to.
    op.add_column("runs", sa.Column("pause_requested", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("run_teachers", sa.Column("fallback", sa.String(length=100), nullable=True))
    op.create_index(op.f("ix_run_teachers_fallback"), "run_teachers", ["fallback"], unique=False)
    op.add_column("teachers", sa.Column("drained", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.execute("UPDATE teachers SET drained = (state = 'draining')")
    op.create_table(
        "endpoints",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("teacher_id", sa.String(length=40), nullable=False),
        sa.Column("url", sa.String(length=2048), nullable=False),
        sa.Column("key_env", sa.String(length=128), nullable=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("drained", sa.Boolean(), nullable=False),
        sa.Column("trouble", sa.String(length=1000), nullable=True),
        sa.Column("probe", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["teacher_id"], ["teachers.id"], name=op.f("fk_endpoints_teacher_id_teachers")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoints")),
        sa.UniqueConstraint("teacher_id", "url", name=op.f("uq_endpoints_teacher_id_url")),
    )
    # What a drained teacher's endpoint was found to be is not known; the next look at it tells.
    op.execute(
        "INSERT INTO endpoints (id, teacher_id, url, key_env, state, drained, probe, created_at) "
        "SELECT replace(id, 'teacher-', 'endpoint-'), id, url, key_env, "
        "CASE state WHEN 'draining' THEN 'ready' ELSE state END, false, probe, created_at FROM teachers"
    )
    for column in ("url", "key_env", "state", "probe"):
        op.drop_column("teachers", column)


def downgrade() -> None:
    raise NotImplementedError("The way back is the backup: see docs/operations.md.")
