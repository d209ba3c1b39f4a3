"""Releases as they are stored."""

from __future__ import annotations

from sqlalchemy import BigInteger, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from hwtrust_backend.db import Base, Millis


class StoredRelease(Base):
    """A release; accepted from `accepted_at` until `retired_at`."""

    __tablename__ = "releases"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    """The `hwtrust.wire.messages.Release` as canonical JSON."""
    added_at: Mapped[Millis]
    accepted_at: Mapped[int | None] = mapped_column(BigInteger)
    retired_at: Mapped[int | None] = mapped_column(BigInteger)

    @property
    def state(self) -> str:
        """`added`, `accepted` or `retired`."""
        if self.retired_at is not None:
            return "retired"
        return "added" if self.accepted_at is None else "accepted"
