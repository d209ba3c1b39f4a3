"""What is remembered of a device's logs of firmware and kernel."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of devices that are there already no log was seen."""
    op.add_column("devices", sa.Column("platform", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    """Remove it again; the logs will be asked for anew."""
    op.drop_column("devices", "platform")
