"""API tokens, sessions of people, TPM vendors' CAs, and what lists of devices are found by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_RARE = {
    "ix_devices_silent": "silent_since IS NOT NULL",
    "ix_devices_locked": "locked_at IS NOT NULL",
    "ix_devices_retired": "retired_at IS NOT NULL",
    "ix_devices_asked": "rotation_asked_at IS NOT NULL",
    "ix_devices_not_normal": "mode <> 'normal'",
}


def upgrade() -> None:
    """Make what is missing."""
    op.create_table(
        "api_tokens",
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column(
            "role",
            sa.Enum(
                "viewer", "operator", "administrator", name="role", native_enum=False, length=20
            ),
            nullable=False,
        ),
        sa.Column("groups", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("last_used_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("name", name=op.f("uq_api_tokens_name")),
    )
    op.create_table(
        "ek_authorities",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("added_at", sa.BigInteger(), nullable=False),
        sa.Column("added_by", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ek_authorities")),
    )
    stamps = sa.table("stamps", sa.column("name", sa.String), sa.column("serial", sa.BigInteger))
    op.bulk_insert(stamps, [{"name": "ek-authorities", "serial": 1}])
    op.add_column("devices", sa.Column("readmitted_at", sa.BigInteger(), nullable=True))
    op.create_index("ix_devices_release_id", "devices", ["release", "id"])
    for name, condition in _RARE.items():
        where = sa.text(condition)
        op.create_index(name, "devices", ["id"], postgresql_where=where, sqlite_where=where)
    op.create_index(
        "ix_enrolment_tokens_created_at_digest", "enrolment_tokens", ["created_at", "digest"]
    )


def downgrade() -> None:
    """Remove it again."""
    op.drop_index("ix_enrolment_tokens_created_at_digest", "enrolment_tokens")
    for name in (*_RARE, "ix_devices_release_id"):
        op.drop_index(name, "devices")
    op.drop_column("devices", "readmitted_at")
    op.execute("DELETE FROM stamps WHERE name = 'ek-authorities'")
    op.drop_table("ek_authorities")
    op.drop_table("api_tokens")
