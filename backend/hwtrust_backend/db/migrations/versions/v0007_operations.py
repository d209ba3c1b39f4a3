"""What operations need: marks of a restored backup, switches."""

from __future__ import annotations

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make what is missing."""


def downgrade() -> None:
    """Remove it again."""
