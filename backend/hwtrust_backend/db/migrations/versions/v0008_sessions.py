"""Sessions of people, attestations a minute, and the indexes that the overview is read from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables and the indexes."""
    op.create_table(
        "page_sessions",
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("principal", sa.String(length=200), nullable=False),
        sa.Column("role", sa.String(length=20), nullable=False),
        sa.Column("groups", sa.Text(), nullable=True),
        sa.Column("api_token", sa.LargeBinary(length=32), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_page_sessions")),
    )
    op.create_index(op.f("ix_page_sessions_principal"), "page_sessions", ["principal"])
    op.create_index(op.f("ix_page_sessions_ends_at"), "page_sessions", ["ends_at"])
    op.create_table(
        "attestation_minutes",
        sa.Column("minute", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("writer", sa.String(length=40), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("minute", "writer", name=op.f("pk_attestation_minutes")),
    )
    op.create_index(
        "ix_devices_fleet",
        "devices",
        ["group", "standing", "mode", "retired_at", "silent_since", "counter"],
    )
    op.create_index("ix_devices_standing_since", "devices", ["standing", "standing_since"])
    op.create_index(
        "ix_roots_active_made",
        "roots",
        ["made_at", "state"],
        postgresql_where=sa.text("state = 'active'"),
        sqlite_where=sa.text("state = 'active'"),
    )


def downgrade() -> None:
    """Remove it again."""
    op.drop_index("ix_roots_active_made", "roots")
    op.drop_index("ix_devices_standing_since", "devices")
    op.drop_index("ix_devices_fleet", "devices")
    op.drop_table("attestation_minutes")
    op.drop_table("page_sessions")
