"""The roles of a run may be filled by other teachers while it goes on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "refills",
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(length=100), nullable=False),
        sa.Column("teacher_left", sa.String(length=100), nullable=True),
        sa.Column("teacher_joined", sa.String(length=100), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("created_by", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["keys.id"], name=op.f("fk_refills_created_by_keys")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_refills_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "number", name=op.f("pk_refills")),
    )
    op.create_index(op.f("ix_refills_teacher_left"), "refills", ["teacher_left"], unique=False)


def downgrade() -> None:
    raise NotImplementedError("The way back is the backup: see docs/operations.md.")
