"""API tokens, sessions of people."""

from __future__ import annotations

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make what is missing."""


def downgrade() -> None:
    """Remove it again."""
