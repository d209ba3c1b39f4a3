"""The keys that sign attestation results."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, Enum, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from hwtrust_backend.db import Base, Millis


class KeyState(StrEnum):
    """Where a key is in its life."""

    NEXT = "next"
    """Published, and does not sign yet."""
    CURRENT = "current"
    """Signs."""
    PREVIOUS = "previous"
    """Signs no more, and is published until all that it signed has expired."""
    GONE = "gone"


class ResultKey(Base):
    """One P-256 key."""

    __tablename__ = "result_keys"

    kid: Mapped[str] = mapped_column(String(43), primary_key=True)
    """Its thumbprint (RFC 7638)."""
    state: Mapped[KeyState] = mapped_column(
        Enum(
            KeyState,
            native_enum=False,
            create_constraint=False,
            length=20,
            values_callable=lambda members: [member.value for member in members],
        )
    )
    x: Mapped[bytes] = mapped_column(LargeBinary(32))
    y: Mapped[bytes] = mapped_column(LargeBinary(32))
    private: Mapped[bytes | None] = mapped_column(LargeBinary)
    """PKCS#8, sealed; None once it signs no more."""
    made_at: Mapped[Millis]
    current_at: Mapped[int | None] = mapped_column(BigInteger)
    retired_at: Mapped[int | None] = mapped_column(BigInteger)


class ResultKeyRing(Base):
    """One row, which whoever changes the keys locks first: of several replicas one wins."""

    __tablename__ = "result_key_ring"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    changes: Mapped[int] = mapped_column(BigInteger)
