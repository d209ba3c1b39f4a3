"""What devices report that failed, since when they run what they run, and what they were asked."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_FAILING = sa.text("failing_since IS NOT NULL")


def upgrade() -> None:
    """Add the columns and the table; of devices that are there already nothing is known yet."""
    op.add_column("devices", sa.Column("release_since", sa.BigInteger(), nullable=True))
    op.add_column("devices", sa.Column("failure", sa.LargeBinary(), nullable=True))
    op.add_column("devices", sa.Column("failing_since", sa.BigInteger(), nullable=True))
    op.add_column("devices", sa.Column("query_asked_at", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_devices_failing",
        "devices",
        ["id"],
        postgresql_where=_FAILING,
        sqlite_where=_FAILING,
    )
    op.create_table(
        "device_queries",
        sa.Column("device", sa.String(length=140), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("asked_by", sa.String(length=200), nullable=False),
        sa.Column("answered_at", sa.BigInteger(), nullable=True),
        sa.Column("answer", sa.LargeBinary(), nullable=True),
        sa.Column("evidence", sa.LargeBinary(), nullable=True),
        sa.Column("result", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.id"], name=op.f("fk_device_queries_device")),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_device_queries")),
    )


def downgrade() -> None:
    """Remove them again."""
    op.drop_table("device_queries")
    op.drop_index("ix_devices_failing", table_name="devices")
    for column in ("query_asked_at", "failing_since", "failure", "release_since"):
        op.drop_column("devices", column)
