"""When the database was restored from a backup."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of recoveries."""
    op.create_table(
        "recoveries",
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("note", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("at", name=op.f("pk_recoveries")),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("recoveries")
