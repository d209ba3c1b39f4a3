"""Due work, campaigns, and what waiting devices are told."""

from __future__ import annotations

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make what is missing."""


def downgrade() -> None:
    """Remove it again."""
