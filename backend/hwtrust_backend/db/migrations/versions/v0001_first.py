"""Devices, enrolments, tokens, allowed EKs, releases, roots and the audit trail."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table, and the audit trail's head."""
    op.create_table(
        "allowed_eks",
        sa.Column("name", sa.String(length=140), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("added_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_allowed_eks")),
    )
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.create_table(
        "audit_records",
        sa.Column("sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.String(length=60), nullable=False),
        sa.Column("device", sa.String(length=140), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("evidence", sa.LargeBinary(length=32), nullable=False),
        sa.Column("previous", sa.LargeBinary(length=32), nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_audit_records")),
    )
    op.create_index(op.f("ix_audit_records_device"), "audit_records", ["device"], unique=False)
    op.create_table(
        "devices",
        sa.Column("id", sa.String(length=140), nullable=False),
        sa.Column("ek_source", sa.Text(), nullable=False),
        sa.Column("ak_public", sa.LargeBinary(), nullable=False),
        sa.Column("storage_public", sa.LargeBinary(), nullable=False),
        sa.Column("counter_name", sa.LargeBinary(), nullable=False),
        sa.Column("selection", sa.String(length=200), nullable=False),
        sa.Column("pcr", sa.Integer(), nullable=False),
        sa.Column("base_epoch", sa.BigInteger(), nullable=False),
        sa.Column(
            "tls_kind",
            sa.Enum("tpm", "attested", name="tlskeykind", native_enum=False, length=20),
            nullable=False,
        ),
        sa.Column("tls_key", sa.LargeBinary(), nullable=False),
        sa.Column("enrolled_at", sa.BigInteger(), nullable=False),
        sa.Column("attested_at", sa.BigInteger(), nullable=False),
        sa.Column(
            "standing",
            sa.Enum(
                "trusted", "incomplete", "failed", name="standing", native_enum=False, length=20
            ),
            nullable=False,
        ),
        sa.Column("standing_since", sa.BigInteger(), nullable=False),
        sa.Column("findings", sa.LargeBinary(), nullable=False),
        sa.Column("history", sa.LargeBinary(), nullable=False),
        sa.Column("release", sa.String(length=200), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.Column("nonce_issued", sa.BigInteger(), nullable=False),
        sa.Column("rotation_asked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_devices")),
    )
    op.create_table(
        "enrolment_tokens",
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=True),
        sa.Column("used_by", sa.String(length=140), nullable=False),
        sa.Column("revoked", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_enrolment_tokens")),
    )
    op.create_table(
        "releases",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("added_at", sa.BigInteger(), nullable=False),
        sa.Column("accepted_at", sa.BigInteger(), nullable=True),
        sa.Column("retired_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_releases")),
    )
    op.create_table(
        "enrolments",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("device", sa.String(length=140), nullable=False),
        sa.Column("ek_public", sa.LargeBinary(), nullable=False),
        sa.Column("ek_source", sa.Text(), nullable=False),
        sa.Column("nonce", sa.LargeBinary(), nullable=False),
        sa.Column("token", sa.LargeBinary(length=32), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("ak_public", sa.LargeBinary(), nullable=True),
        sa.Column("secret_digest", sa.LargeBinary(length=32), nullable=True),
        sa.Column("finish_digest", sa.LargeBinary(length=32), nullable=True),
        sa.Column("reply", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["token"], ["enrolment_tokens.digest"], name=op.f("fk_enrolments_token")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enrolments")),
    )
    op.create_table(
        "roots",
        sa.Column("device", sa.String(length=140), nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column(
            "state",
            sa.Enum("offered", "active", "retired", name="rootstate", native_enum=False, length=20),
            nullable=False,
        ),
        sa.Column("release", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.String(length=40), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("confirmed_at", sa.BigInteger(), nullable=True),
        sa.Column("retired_at", sa.BigInteger(), nullable=True),
        sa.Column("object_name", sa.LargeBinary(), nullable=False),
        sa.Column("metadata_envelope", sa.LargeBinary(), nullable=False),
        sa.Column("public", sa.LargeBinary(), nullable=True),
        sa.Column("duplicate", sa.LargeBinary(), nullable=True),
        sa.Column("seed", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["device"], ["devices.id"], name=op.f("fk_roots_device")),
        sa.PrimaryKeyConstraint("device", "epoch", name=op.f("pk_roots")),
    )
    head = sa.table(
        "audit_head", sa.column("id"), sa.column("sequence"), sa.column("digest", sa.LargeBinary)
    )
    op.bulk_insert(head, [{"id": 1, "sequence": 0, "digest": bytes(32)}])


def downgrade() -> None:
    """Remove every table, with all that is in them."""
    op.drop_table("roots")
    op.drop_table("enrolments")
    op.drop_table("releases")
    op.drop_table("enrolment_tokens")
    op.drop_table("devices")
    op.drop_table("audit_records")
    op.drop_table("audit_head")
    op.drop_table("allowed_eks")
