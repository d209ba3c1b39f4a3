"""What kind of evidence a device has, what it said last, and who vouches for enclaves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_ENCLAVES = sa.text("kind <> 'tpm'")


def upgrade() -> None:
    """Add the columns and the table; every device that is there already is a TPM's."""
    op.add_column(
        "devices", sa.Column("kind", sa.String(length=20), nullable=False, server_default="tpm")
    )
    op.add_column("devices", sa.Column("facts", sa.LargeBinary(), nullable=True))
    op.create_index(
        "ix_devices_enclaves",
        "devices",
        ["kind", "id", "group", "retired_at"],
        postgresql_where=_ENCLAVES,
        sqlite_where=_ENCLAVES,
    )
    op.create_table(
        "enclave_authorities",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("added_at", sa.BigInteger(), nullable=False),
        sa.Column("added_by", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enclave_authorities")),
    )
    stamps = sa.table("stamps", sa.column("name", sa.String), sa.column("serial", sa.BigInteger))
    op.bulk_insert(stamps, [{"name": "enclave-authorities", "serial": 1}])


def downgrade() -> None:
    """Remove them again."""
    op.execute("DELETE FROM stamps WHERE name = 'enclave-authorities'")
    op.drop_table("enclave_authorities")
    op.drop_index("ix_devices_enclaves", table_name="devices")
    op.drop_column("devices", "facts")
    op.drop_column("devices", "kind")
