"""A run records the hash of its recipe's file, where that is the operator's own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("recipe_sha256", sa.String(length=64), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("The way back is the backup: see docs/operations.md.")
