"""The trail as it is stored: numbered records, and the Merkle tree over them.

audit_records   one row a record, never changed, numbered from 1
audit_tiles     the tree's hashes, 256 at a time, written once when a tile is full
audit_head      one row: the tree's size and frontier; its lock puts writers in line
audit_heads     tree heads as they were signed
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from hwtrust_backend.db import Base, Millis

DEVICE_LIMIT: Final = 140
ACTOR_LIMIT: Final = 200


class AuditRecord(Base):
    """One decision.

    `device` is empty where it concerns none. It is no foreign key: a device that
    was refused may never come to exist. `actor` is who decided: empty for a device
    or the backend itself, else the name of an administrator or a token.
    """

    __tablename__ = "audit_records"
    __table_args__ = (Index("ix_audit_records_device_sequence", "device", "sequence"),)

    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[Millis]
    event: Mapped[str] = mapped_column(String(60))
    device: Mapped[str] = mapped_column(String(DEVICE_LIMIT))
    actor: Mapped[str] = mapped_column(String(ACTOR_LIMIT), server_default="")
    reason: Mapped[str] = mapped_column(Text)
    evidence: Mapped[bytes] = mapped_column(LargeBinary(32))
    """SHA-256 of the evidence decided on, or empty."""
    leaf: Mapped[bytes] = mapped_column(LargeBinary(32))
    """The hash of leaf `sequence - 1`."""


class AuditTile(Base):
    """256 hashes of one level, and the root over them, which is one hash eight levels up.

    Tile (level, number) holds the nodes (8 * level, 256 * number) and the 255 next.
    """

    __tablename__ = "audit_tiles"

    level: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    hashes: Mapped[bytes] = mapped_column(LargeBinary(256 * 32))
    root: Mapped[bytes] = mapped_column(LargeBinary(32))


class AuditHead(Base):
    """The tree as it stands: how many records, and its `merkle.Frontier`."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    size: Mapped[int] = mapped_column(BigInteger)
    frontier: Mapped[bytes] = mapped_column(LargeBinary)


class AuditSignedHead(Base):
    """A signed tree head; `envelope` is what counts, the other columns are for looking it up."""

    __tablename__ = "audit_heads"

    size: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    root: Mapped[bytes] = mapped_column(LargeBinary(32))
    utc_ms: Mapped[Millis]
    envelope: Mapped[bytes] = mapped_column(LargeBinary)


# The same without the mapping: what writes the trail has no use for objects.
RECORDS: Final = Base.metadata.tables[AuditRecord.__tablename__]
TILES: Final = Base.metadata.tables[AuditTile.__tablename__]
TREE: Final = Base.metadata.tables[AuditHead.__tablename__]
