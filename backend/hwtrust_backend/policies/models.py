"""Groups of devices, and the versions of the policies that they are held to."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from hwtrust_backend.db import Base, Millis

DEFAULT_GROUP = "default"
"""The group of a device that no token puts elsewhere."""

NAME_LENGTH = 100


class Group(Base):
    """A group of devices; all of it is held to one policy."""

    __tablename__ = "device_groups"

    name: Mapped[str] = mapped_column(String(NAME_LENGTH), primary_key=True)
    label: Mapped[str] = mapped_column(String(200))
    policy: Mapped[str] = mapped_column(String(NAME_LENGTH))
    """The policy's name; its active version counts."""
    created_at: Mapped[Millis]


class StoredPolicy(Base):
    """One version of a policy. A version never changes; the one activated last is in force."""

    __tablename__ = "policies"

    name: Mapped[str] = mapped_column(String(NAME_LENGTH), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    document: Mapped[str] = mapped_column(Text)
    """The TOML file as it was given."""
    digest: Mapped[bytes] = mapped_column(LargeBinary(32))
    author: Mapped[str] = mapped_column(String(200))
    note: Mapped[str] = mapped_column(String(200))
    added_at: Mapped[Millis]
    signature: Mapped[bytes | None] = mapped_column(LargeBinary)
    """A DSSE envelope over the document, as JSON, where a signer has signed it."""
    signer: Mapped[str] = mapped_column(String(200))
    """Whose key the signature is of; empty where there is none."""


class ActivePolicy(Base):
    """Which version of a policy is in force."""

    __tablename__ = "active_policies"

    name: Mapped[str] = mapped_column(String(NAME_LENGTH), primary_key=True)
    version: Mapped[int]
    activated_at: Mapped[Millis]
    activated_by: Mapped[str] = mapped_column(String(200))


class StoredEvidence(Base):
    """The newest evidence of a device that told something new, for a policy's dry run."""

    __tablename__ = "evidence"

    device: Mapped[str] = mapped_column(String(140), ForeignKey("devices.id"), primary_key=True)
    at: Mapped[int] = mapped_column(BigInteger)
    nonce: Mapped[bytes] = mapped_column(LargeBinary)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    """The `hwtrust.wire.messages.Evidence` as JSON."""
