"""The trail as it is stored: append-only, numbered, each record hashing the one before."""

from __future__ import annotations

from sqlalchemy import BigInteger, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from hwtrust_backend.db import Base, Millis


class AuditRecord(Base):
    """One decision.

    `device` is empty where it concerns none. It is no foreign key: a device that
    was refused may never come to exist.
    """

    __tablename__ = "audit_records"

    sequence: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[Millis]
    event: Mapped[str] = mapped_column(String(60))
    device: Mapped[str] = mapped_column(String(140), index=True)
    reason: Mapped[str] = mapped_column(Text)
    evidence: Mapped[bytes] = mapped_column(LargeBinary(32))
    """SHA-256 of the evidence decided on, or empty."""
    previous: Mapped[bytes] = mapped_column(LargeBinary(32))
    digest: Mapped[bytes] = mapped_column(LargeBinary(32))


class AuditHead(Base):
    """The newest record's number and digest: one row, whose lock puts writers in line."""

    __tablename__ = "audit_head"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sequence: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[bytes] = mapped_column(LargeBinary(32))
