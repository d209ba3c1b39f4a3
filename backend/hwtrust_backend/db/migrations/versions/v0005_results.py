"""Keys of attestation results, webhooks and their outbox."""

from __future__ import annotations

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make what is missing."""


def downgrade() -> None:
    """Remove it again."""
