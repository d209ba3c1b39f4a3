"""Groups, policies, and what a device's group, mode and schedule are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_MODE = sa.Enum("normal", "limited", "locked", name="mode", native_enum=False, length=20)


def upgrade() -> None:
    """Make groups and policies; devices and tokens get what a fleet needs of them."""
    op.create_table(
        "stamps",
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_stamps")),
    )
    stamps = sa.table("stamps", sa.column("name", sa.String), sa.column("serial", sa.BigInteger))
    op.bulk_insert(stamps, [{"name": "rules", "serial": 1}])
    op.create_table(
        "device_groups",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("policy", sa.String(length=100), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_device_groups")),
    )
    op.create_table(
        "policies",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("author", sa.String(length=200), nullable=False),
        sa.Column("note", sa.String(length=200), nullable=False),
        sa.Column("added_at", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=True),
        sa.Column("signer", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name=op.f("pk_policies")),
    )
    op.create_table(
        "active_policies",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("activated_at", sa.BigInteger(), nullable=False),
        sa.Column("activated_by", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_active_policies")),
    )
    op.create_table(
        "evidence",
        sa.Column("device", sa.String(length=140), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.id"], name=op.f("fk_evidence_device")),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_evidence")),
    )
    for column in (
        _text("rotation_reason", 40, ""),
        sa.Column("rotate_at", sa.BigInteger(), nullable=True),
        sa.Column("watchdog_at", sa.BigInteger(), nullable=True),
        sa.Column("silent_since", sa.BigInteger(), nullable=True),
        _text("group", 100, "default"),
        _text("label", 200, ""),
        sa.Column("mode", _MODE, nullable=False, server_default="normal"),
        sa.Column("locked_at", sa.BigInteger(), nullable=True),
        sa.Column("evidence_told", sa.LargeBinary(length=32), nullable=True),
        _text("lock_reason", 200, ""),
        sa.Column("retired_at", sa.BigInteger(), nullable=True),
    ):
        op.add_column("devices", column)
    op.create_index(op.f("ix_devices_rotate_at"), "devices", ["rotate_at"])
    op.create_index(op.f("ix_devices_watchdog_at"), "devices", ["watchdog_at"])
    op.create_index("ix_devices_group_id", "devices", ["group", "id"])
    op.create_index("ix_devices_standing_id", "devices", ["standing", "id"])
    op.add_column("enrolment_tokens", _text("group", 100, "default"))
    op.add_column("enrolment_tokens", _number("uses", 0))
    op.add_column("enrolment_tokens", _number("uses_allowed", 1))
    op.execute("UPDATE enrolment_tokens SET uses = 1 WHERE used_at IS NOT NULL")
    op.add_column("allowed_eks", _text("group", 100, "default"))
    op.add_column("enrolments", _text("group", 100, "default"))


def downgrade() -> None:
    """Remove it again."""
    op.drop_column("enrolments", "group")
    op.drop_column("allowed_eks", "group")
    for name in ("uses_allowed", "uses", "group"):
        op.drop_column("enrolment_tokens", name)
    for index in (
        "ix_devices_standing_id",
        "ix_devices_group_id",
        op.f("ix_devices_watchdog_at"),
        op.f("ix_devices_rotate_at"),
    ):
        op.drop_index(index, "devices")
    for name in (
        "retired_at",
        "lock_reason",
        "evidence_told",
        "locked_at",
        "mode",
        "label",
        "group",
        "silent_since",
        "watchdog_at",
        "rotate_at",
        "rotation_reason",
    ):
        op.drop_column("devices", name)
    for table in ("evidence", "active_policies", "policies", "device_groups", "stamps"):
        op.drop_table(table)


def _text(name: str, length: int, default: str) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length), nullable=False, server_default=default)


def _number(name: str, default: int) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False, server_default=str(default))
