"""Groups, policies, and what a device's group, mode and schedule are."""

from __future__ import annotations

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make what is missing."""


def downgrade() -> None:
    """Remove it again."""
