"""Two runs may be a pair, whose students are published to each other."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "codistillations",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("policy", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(length=40), nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=True),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["keys.id"], name=op.f("fk_codistillations_created_by_keys")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_codistillations")),
        sa.UniqueConstraint(
            "created_by", "idempotency_key", name=op.f("uq_codistillations_created_by_idempotency_key")
        ),
    )
    for column in ("name", "created_at"):
        op.create_index(op.f(f"ix_codistillations_{column}"), "codistillations", [column], unique=False)
    op.create_table(
        "codistillation_sides",
        sa.Column("codistillation_id", sa.String(length=40), nullable=False),
        sa.Column("side", sa.String(length=1), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("teacher", sa.String(length=100), nullable=False),
        sa.Column("teaches", sa.JSON(), nullable=False),
        sa.Column("url", sa.String(length=2048), nullable=True),
        sa.Column("done_fence", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["codistillation_id"],
            ["codistillations.id"],
            name=op.f("fk_codistillation_sides_codistillation_id_codistillations"),
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_codistillation_sides_run_id_runs")),
        sa.PrimaryKeyConstraint("codistillation_id", "side", name=op.f("pk_codistillation_sides")),
        sa.UniqueConstraint("run_id", name=op.f("uq_codistillation_sides_run_id")),
        sa.UniqueConstraint("teacher", name=op.f("uq_codistillation_sides_teacher")),
    )
    op.create_table(
        "publications",
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("publication", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_publications_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "version", name=op.f("pk_publications")),
    )


def downgrade() -> None:
    raise NotImplementedError("The way back is the backup: see docs/operations.md.")
