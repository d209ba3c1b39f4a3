"""Sessions of people, as they are stored."""

from __future__ import annotations

from sqlalchemy import LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from hwtrust_backend.db import Base, Millis


class PageSession(Base):
    """Somebody who is signed in, by the SHA-256 of the cookie alone."""

    __tablename__ = "page_sessions"

    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    principal: Mapped[str] = mapped_column(String(200), index=True)
    role: Mapped[str] = mapped_column(String(20))
    groups: Mapped[str | None] = mapped_column(Text)
    """A JSON list of the groups that they are limited to; None: all devices."""
    api_token: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    """The digest of the API token they came with; its role counts, and its end ends this."""
    created_at: Mapped[Millis]
    seen_at: Mapped[Millis]
    """To the minute."""
    ends_at: Mapped[Millis] = mapped_column(index=True)
