"""Due work, campaigns, and what waiting devices are told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make what is missing; a root that is there already becomes due by its age."""
    op.create_table(
        "rotation_budgets",
        sa.Column("group", sa.String(length=100), nullable=False),
        sa.Column("free_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("group", name=op.f("pk_rotation_budgets")),
    )
    op.create_table(
        "campaigns",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("group", sa.String(length=100), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("detail", sa.String(length=200), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=False),
        sa.Column("cursor", sa.String(length=140), nullable=False),
        sa.Column("taken", sa.Integer(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaigns")),
    )
    op.create_index("ix_campaigns_finished_at_next_at", "campaigns", ["finished_at", "next_at"])
    op.create_table(
        "wakes",
        sa.Column("device", sa.String(length=140), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.Column("answered", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.id"], name=op.f("fk_wakes_device")),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_wakes")),
    )
    op.create_index(op.f("ix_wakes_serial"), "wakes", ["serial"])
    op.add_column(
        "devices", sa.Column("event_free_at", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.execute("UPDATE devices SET rotation_reason = 'asked' WHERE rotation_asked_at IS NOT NULL")
    op.execute(
        "UPDATE devices SET rotation_reason = 'age', rotate_at ="
        " (SELECT made_at + (not_after - made_at) / 3 * 2 FROM roots"
        " WHERE roots.device = devices.id AND roots.state = 'active')"
        " WHERE rotation_asked_at IS NULL"
    )


def downgrade() -> None:
    """Remove it again."""
    op.drop_column("devices", "event_free_at")
    for table in ("wakes", "campaigns", "rotation_budgets"):
        op.drop_table(table)
