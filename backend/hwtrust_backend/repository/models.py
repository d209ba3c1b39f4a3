"""What the repository keeps: signed metadata, releases, and one row to lock."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import BigInteger, Enum, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from hwtrust_backend.db import Base, Millis


class TufRole(StrEnum):
    """The top-level roles of TUF; there are no others."""

    ROOT = "root"
    TARGETS = "targets"
    SNAPSHOT = "snapshot"
    TIMESTAMP = "timestamp"


class TufMetadata(Base):
    """Signed metadata, as it is served."""

    __tablename__ = "tuf_metadata"

    role: Mapped[TufRole] = mapped_column(
        Enum(
            TufRole,
            native_enum=False,
            create_constraint=False,
            length=20,
            values_callable=lambda members: [member.value for member in members],
        ),
        primary_key=True,
    )
    version: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    made_at: Mapped[Millis]
    expires_at: Mapped[Millis]


class PublishedRelease(Base):
    """A release that was published, with its manifest; devices find it until `revoked_at`."""

    __tablename__ = "published_releases"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    manifest: Mapped[bytes] = mapped_column(LargeBinary)
    published_at: Mapped[Millis]
    revoked_at: Mapped[int | None] = mapped_column(BigInteger)


class TufRepository(Base):
    """One row, which whoever signs locks first: of several replicas one goes before the other."""

    __tablename__ = "tuf_repository"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    changes: Mapped[int] = mapped_column(BigInteger)
    online_key: Mapped[int] = mapped_column(Integer)
    """The number of the key that signs snapshots and timestamps."""
