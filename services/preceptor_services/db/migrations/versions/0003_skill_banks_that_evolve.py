"""Skills may leave a bank; their sources, vectors and uses are kept; a run may pin a version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _key() -> tuple[sa.Column[str], sa.Column[int]]:
    return (
        sa.Column("bank", sa.String(length=100), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
    )


def upgrade() -> None:
    op.add_column("runs", sa.Column("skills", sa.String(length=120), nullable=True))
    op.add_column("skill_banks", sa.Column("task", sa.String(length=100), nullable=True))
    op.add_column(
        "skill_banks", sa.Column("embedder", sa.String(length=100), server_default="ngrams-1", nullable=False)
    )
    op.add_column("skill_banks", sa.Column("duplicate_above", sa.Float(), nullable=True))
    op.add_column("skill_banks", sa.Column("cap", sa.Integer(), nullable=True))
    op.add_column("skill_banks", sa.Column("last_number", sa.Integer(), server_default="0", nullable=False))
    op.execute("UPDATE skill_banks SET last_number = skills")  # until now, none ever left
    op.add_column("skill_bank_versions", sa.Column("run_id", sa.String(length=100), nullable=True))
    op.add_column("skill_bank_versions", sa.Column("step", sa.Integer(), nullable=True))
    op.add_column("skill_bank_versions", sa.Column("record", sa.JSON(none_as_null=True), nullable=True))
    # An index, and no constraint: to give SQLite's table one, it would have to be made anew.
    op.create_index(
        op.f("ix_skill_bank_versions_bank_run_id_step"),
        "skill_bank_versions",
        ["bank", "run_id", "step"],
        unique=True,
    )
    op.add_column("skills", sa.Column("gone", sa.Integer(), nullable=True))
    op.drop_column("skills", "usefulness")  # nothing was ever measured
    to_skill = (["bank", "number"], ["skills.bank", "skills.number"])
    op.create_table(
        "skill_sources",
        *_key(),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(length=100), nullable=True),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("rollout", sa.String(length=200), nullable=True),
        sa.Column("task", sa.String(length=200), nullable=True),
        sa.Column("skill", sa.Text(), nullable=True),
        sa.Column("mistake", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(*to_skill, name=op.f("fk_skill_sources_bank_number_skills")),
        sa.PrimaryKeyConstraint("bank", "number", "ordinal", name=op.f("pk_skill_sources")),
    )
    op.create_table(
        "skill_embeddings",
        *_key(),
        sa.Column("embedder", sa.String(length=100), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(*to_skill, name=op.f("fk_skill_embeddings_bank_number_skills")),
        sa.PrimaryKeyConstraint("bank", "number", "embedder", name=op.f("pk_skill_embeddings")),
    )
    counts = ("used", "shown", "shown_right", "plain", "plain_right", "right_n", "wrong_n")
    sums = ("right_total", "right_squares", "wrong_total", "wrong_squares")
    op.create_table(
        "skill_uses",
        *_key(),
        sa.Column("run_id", sa.String(length=100), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in counts),
        *(sa.Column(name, sa.Float(), nullable=False) for name in sums),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(*to_skill, name=op.f("fk_skill_uses_bank_number_skills")),
        sa.PrimaryKeyConstraint("bank", "number", "run_id", "step", name=op.f("pk_skill_uses")),
    )


def downgrade() -> None:
    raise NotImplementedError("The way back is the backup: see docs/operations.md.")
