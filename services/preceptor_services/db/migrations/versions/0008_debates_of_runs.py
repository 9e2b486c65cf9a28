"""Debates that a run holds for itself are kept, and where in the run each was held."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "run_debates",
        sa.Column("debate_id", sa.String(length=40), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("context", sa.String(length=100), nullable=False),
        sa.Column("task", sa.String(length=100), nullable=False),
        sa.Column("rollout", sa.BigInteger(), nullable=False),
        sa.Column("voices", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(["debate_id"], ["debates.id"], name=op.f("fk_run_debates_debate_id_debates")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_debates_run_id_runs")),
        sa.PrimaryKeyConstraint("debate_id", name=op.f("pk_run_debates")),
        sa.UniqueConstraint(
            "run_id",
            "step",
            "context",
            "task",
            "rollout",
            name=op.f("uq_run_debates_run_id_step_context_task_rollout"),
        ),
    )


def downgrade() -> None:
    raise NotImplementedError("The way back is the backup: see docs/operations.md.")
