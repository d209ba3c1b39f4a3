"""The repository of releases: its metadata, its releases, and the row that locks it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_ROLE = sa.Enum(
    "root", "targets", "snapshot", "timestamp", name="tufrole", native_enum=False, length=20
)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "tuf_metadata",
        sa.Column("role", _ROLE, nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("role", "version", name=op.f("pk_tuf_metadata")),
    )
    op.create_table(
        "published_releases",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=False),
        sa.Column("published_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_published_releases")),
    )
    op.create_table(
        "tuf_repository",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
        sa.Column("online_key", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tuf_repository")),
    )
    repository = sa.table(
        "tuf_repository", sa.column("id"), sa.column("changes"), sa.column("online_key")
    )
    op.bulk_insert(repository, [{"id": 1, "changes": 0, "online_key": 1}])
    stamps = sa.table("stamps", sa.column("name", sa.String), sa.column("serial", sa.BigInteger))
    op.bulk_insert(stamps, [{"name": "repository", "serial": 1}])


def downgrade() -> None:
    """Remove them again."""
    op.execute("DELETE FROM stamps WHERE name = 'repository'")
    op.drop_table("tuf_repository")
    op.drop_table("published_releases")
    op.drop_table("tuf_metadata")
