"""Keys of attestation results, webhooks and their outbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_KEY_STATE = sa.Enum(
    "next", "current", "previous", "gone", name="keystate", native_enum=False, length=20
)
_DELIVERY_STATE = sa.Enum(
    "waiting", "delivered", "given-up", name="deliverystate", native_enum=False, length=20
)


def upgrade() -> None:
    """Make the keys and their ring, the webhooks and their outbox."""
    op.create_table(
        "result_keys",
        sa.Column("kid", sa.String(length=43), nullable=False),
        sa.Column("state", _KEY_STATE, nullable=False),
        sa.Column("x", sa.LargeBinary(length=32), nullable=False),
        sa.Column("y", sa.LargeBinary(length=32), nullable=False),
        sa.Column("private", sa.LargeBinary(), nullable=True),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("current_at", sa.BigInteger(), nullable=True),
        sa.Column("retired_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("kid", name=op.f("pk_result_keys")),
    )
    op.create_table(
        "result_key_ring",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_result_key_ring")),
    )
    ring = sa.table("result_key_ring", sa.column("id"), sa.column("changes"))
    op.bulk_insert(ring, [{"id": 1, "changes": 0}])
    stamps = sa.table("stamps", sa.column("name", sa.String), sa.column("serial", sa.BigInteger))
    op.bulk_insert(stamps, [{"name": "webhooks", "serial": 1}])
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("topics", sa.Text(), nullable=False),
        sa.Column("group", sa.String(length=100), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("old_secret", sa.LargeBinary(), nullable=True),
        sa.Column("old_until", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=False),
        sa.Column("failing_since", sa.BigInteger(), nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("hold_until", sa.BigInteger(), nullable=False),
        sa.Column("disabled_at", sa.BigInteger(), nullable=True),
        sa.Column("disabled_reason", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("webhook", sa.String(length=40), nullable=False),
        sa.Column("topic", sa.String(length=40), nullable=False),
        sa.Column("device", sa.String(length=140), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("state", _DELIVERY_STATE, nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_status", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.String(length=200), nullable=False),
        sa.Column("done_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index(op.f("ix_webhook_deliveries_done_at"), "webhook_deliveries", ["done_at"])
    for name in ("next_at", "created_at"):
        op.create_index(
            f"ix_webhook_deliveries_webhook_{name}", "webhook_deliveries", ["webhook", name]
        )


def downgrade() -> None:
    """Remove them again."""
    op.drop_table("webhook_deliveries")
    op.drop_table("webhooks")
    op.drop_table("result_key_ring")
    op.drop_table("result_keys")
