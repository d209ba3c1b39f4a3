"""Roots as they are stored: what a device was sent, never what is inside."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, Enum, ForeignKey, Index, LargeBinary, String, text
from sqlalchemy.orm import Mapped, mapped_column

from hwtrust_backend.db import Base, EpochNumber, Millis
from hwtrust_backend.enrolment import NAME_DIGITS


class RootState(StrEnum):
    """Where a root is in its life."""

    OFFERED = "offered"
    """Sent, and the device's counter does not show it yet."""
    ACTIVE = "active"
    """The one that the device runs on."""
    RETIRED = "retired"
    """Its epoch is over: the counter has passed it, or the device enrolled anew."""


class StoredRoot(Base):
    """One root of one device. The primary key forbids a second one for the same epoch."""

    __tablename__ = "roots"
    __table_args__ = (
        # How old the fleet's roots are, without touching a row. The state comes last: no
        # question for a device's own roots must find this index better than its name.
        Index(
            "ix_roots_active_made",
            *("made_at", "state"),
            postgresql_where=text("state = 'active'"),
            sqlite_where=text("state = 'active'"),
        ),
    )

    device: Mapped[str] = mapped_column(
        String(NAME_DIGITS), ForeignKey("devices.id"), primary_key=True
    )
    epoch: Mapped[EpochNumber] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[RootState] = mapped_column(
        Enum(
            RootState,
            native_enum=False,
            create_constraint=False,
            length=20,
            values_callable=lambda members: [member.value for member in members],
        )
    )
    release: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(String(40))
    made_at: Mapped[Millis]
    not_after: Mapped[Millis]
    confirmed_at: Mapped[int | None] = mapped_column(BigInteger)
    retired_at: Mapped[int | None] = mapped_column(BigInteger)
    object_name: Mapped[bytes] = mapped_column(LargeBinary)
    metadata_envelope: Mapped[bytes] = mapped_column(LargeBinary)
    """The signed metadata, as JSON."""
    public: Mapped[bytes | None] = mapped_column(LargeBinary)
    duplicate: Mapped[bytes | None] = mapped_column(LargeBinary)
    seed: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The three parts that only the device's TPM can import; dropped once it has."""
