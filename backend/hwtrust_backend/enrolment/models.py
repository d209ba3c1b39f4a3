"""Devices, enrolments under way, enrolment tokens, and EKs that are trusted by name."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Enum, ForeignKey, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from hwtrust.wire.messages import Standing, TlsKeyKind
from hwtrust_backend.db import Base, EpochNumber, Millis

NAME_DIGITS = 140
"""Hexadecimal digits of a TPM Name: 2 bytes and a digest, 66 bytes at most."""


def by_value(cls: type[Standing | TlsKeyKind]) -> Enum:
    """An enumeration stored by value, in a column that any database has."""
    return Enum(
        cls,
        native_enum=False,
        create_constraint=False,
        length=20,
        values_callable=lambda members: [member.value for member in members],
    )


class Device(Base):
    """A device: one TPM, known by its EK's Name."""

    __tablename__ = "devices"

    id: Mapped[str] = mapped_column(String(NAME_DIGITS), primary_key=True)
    """The EK's Name in hexadecimal digits."""
    ek_source: Mapped[str] = mapped_column(Text)
    """Why the EK is believed: the certificate's issuer, or the allow-list."""
    ak_public: Mapped[bytes] = mapped_column(LargeBinary)
    storage_public: Mapped[bytes] = mapped_column(LargeBinary)
    counter_name: Mapped[bytes] = mapped_column(LargeBinary)
    selection: Mapped[str] = mapped_column(String(200))
    pcr: Mapped[int]
    base_epoch: Mapped[EpochNumber]
    tls_kind: Mapped[TlsKeyKind] = mapped_column(by_value(TlsKeyKind))
    tls_key: Mapped[bytes] = mapped_column(LargeBinary)
    """The TLS key of enrolment (SPKI DER); it names the device's only key of kind `tpm`."""
    enrolled_at: Mapped[Millis]
    attested_at: Mapped[Millis]
    standing: Mapped[Standing] = mapped_column(by_value(Standing))
    standing_since: Mapped[Millis]
    findings: Mapped[bytes] = mapped_column(LargeBinary)
    history: Mapped[bytes] = mapped_column(LargeBinary)
    """What the next appraisal compares with, as JSON."""
    release: Mapped[str] = mapped_column(String(200))
    counter: Mapped[EpochNumber]
    """The epoch counter as last certified."""
    nonce_issued: Mapped[Millis]
    """When the newest challenge that was accepted had been issued."""
    rotation_asked_at: Mapped[int | None] = mapped_column(BigInteger)

    @property
    def name(self) -> bytes:
        """The EK's Name."""
        return bytes.fromhex(self.id)


class Enrolment(Base):
    """An enrolment under way; it expires."""

    __tablename__ = "enrolments"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    device: Mapped[str] = mapped_column(String(NAME_DIGITS))
    ek_public: Mapped[bytes] = mapped_column(LargeBinary)
    ek_source: Mapped[str] = mapped_column(Text)
    nonce: Mapped[bytes] = mapped_column(LargeBinary)
    token: Mapped[bytes | None] = mapped_column(
        LargeBinary(32), ForeignKey("enrolment_tokens.digest")
    )
    expires_at: Mapped[Millis]
    ak_public: Mapped[bytes | None] = mapped_column(LargeBinary)
    secret_digest: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    finish_digest: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    reply: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The answer to the request of that digest: a device whose connection broke gets it again."""


class EnrolmentToken(Base):
    """A token, by its SHA-256 alone."""

    __tablename__ = "enrolment_tokens"

    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    label: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[Millis]
    expires_at: Mapped[Millis]
    used_at: Mapped[int | None] = mapped_column(BigInteger)
    used_by: Mapped[str] = mapped_column(String(NAME_DIGITS))
    revoked: Mapped[bool] = mapped_column(Boolean)


class AllowedEk(Base):
    """An EK that is trusted by its Name, without a certificate and without a token."""

    __tablename__ = "allowed_eks"

    name: Mapped[str] = mapped_column(String(NAME_DIGITS), primary_key=True)
    label: Mapped[str] = mapped_column(String(200))
    added_at: Mapped[Millis]
