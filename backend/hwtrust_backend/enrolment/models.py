"""Devices, enrolments under way, enrolment tokens, and EKs that are trusted by name."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Enum, ForeignKey, Index, LargeBinary, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from hwtrust.verify.policy import TPM
from hwtrust.wire.messages import Mode, Standing, TlsKeyKind
from hwtrust_backend.db import Base, EpochNumber, Millis
from hwtrust_backend.policies import DEFAULT_GROUP

NAME_DIGITS = 140
"""Hexadecimal digits of a TPM Name: 2 bytes and a digest, 66 bytes at most."""


def by_value(cls: type[Mode | Standing | TlsKeyKind]) -> Enum:
    """An enumeration stored by value, in a column that any database has."""
    return Enum(
        cls,
        native_enum=False,
        create_constraint=False,
        length=20,
        values_callable=lambda members: [member.value for member in members],
    )


def _rare(name: str, condition: str, *columns: str) -> Index:
    """An index, by name unless `columns` say more, of the devices that a condition holds for."""
    where = text(condition)
    return Index(name, *(columns or ("id",)), postgresql_where=where, sqlite_where=where)


class Device(Base):
    """A device: one TPM, known by its EK's Name, or one enclave, known by its TLS key.

    An enclave has nothing in the columns that are a TPM's alone: they say so.
    """

    __tablename__ = "devices"
    __table_args__ = (
        # What lists are filtered by, in the order in which they are paged.
        Index("ix_devices_group_id", "group", "id"),
        Index("ix_devices_standing_id", "standing", "id"),
        # What the overview counts, without touching a row.
        Index(
            "ix_devices_fleet",
            *("group", "standing", "mode", "retired_at", "silent_since", "counter"),
        ),
        # Which devices need somebody first.
        Index("ix_devices_standing_since", "standing", "standing_since"),
        Index("ix_devices_release_id", "release", "id"),
        # Rare states: their indexes hold no other device, and cost one that is well nothing.
        _rare("ix_devices_silent", "silent_since IS NOT NULL"),
        _rare("ix_devices_locked", "locked_at IS NOT NULL"),
        _rare("ix_devices_retired", "retired_at IS NOT NULL"),
        _rare("ix_devices_asked", "rotation_asked_at IS NOT NULL"),
        _rare("ix_devices_not_normal", "mode <> 'normal'"),
        _rare("ix_devices_failing", "failing_since IS NOT NULL"),
        # Enclaves, as lists are filtered and the overview counts.
        _rare("ix_devices_enclaves", "kind <> 'tpm'", "kind", "id", "group", "retired_at"),
    )

    id: Mapped[str] = mapped_column(String(NAME_DIGITS), primary_key=True)
    """The EK's Name in hexadecimal digits, or `hwtrust.wire.enclave.enclave_name`."""
    kind: Mapped[str] = mapped_column(String(20), default=TPM, server_default=TPM)
    """`tpm`, or one of `hwtrust.wire.enclave.EnclaveKind`."""
    facts: Mapped[bytes | None] = mapped_column(LargeBinary)
    """What an enclave's hardware said last, or a TPM device's logs, as JSON."""
    ek_source: Mapped[str] = mapped_column(Text)
    """Why the EK is believed: the certificate's issuer, or the allow-list; or what vouches
    for the enclave.
    """
    ak_public: Mapped[bytes] = mapped_column(LargeBinary)
    """A TPM's alone, as the next four."""
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
    """The epoch counter as last certified; of an enclave, the epoch that it named last."""
    nonce_issued: Mapped[Millis]
    """When the newest challenge that was accepted had been issued."""
    platform: Mapped[bytes | None] = mapped_column(LargeBinary)
    """What its logs of firmware and kernel came to, as JSON (`hwtrust.verify.platform`)."""
    evidence_told: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    """A digest of what the kept evidence told; see `appraisal.stored`."""
    rotation_asked_at: Mapped[int | None] = mapped_column(BigInteger)
    """Since when the next good attestation is answered with the next root; None: it is not."""
    rotation_reason: Mapped[str] = mapped_column(String(40), default="")
    rotate_at: Mapped[int | None] = mapped_column(BigInteger, index=True)
    """When the root is due to be replaced, by its age or another trigger."""
    watchdog_at: Mapped[int | None] = mapped_column(BigInteger, index=True)
    """When the device is missed, unless it attests before; None once it is."""
    silent_since: Mapped[int | None] = mapped_column(BigInteger)
    """When the device was found missing; None while it is heard of."""
    event_free_at: Mapped[int] = mapped_column(BigInteger, default=0)
    """When the device has reported no event lately; later, the more it has."""
    release_since: Mapped[int | None] = mapped_column(BigInteger)
    """Since when it claims the release that it claims; None: for longer than is known."""
    failure: Mapped[bytes | None] = mapped_column(LargeBinary)
    """What it last reported to have failed; see `enrolment.failures`."""
    failing_since: Mapped[int | None] = mapped_column(BigInteger)
    """Since when it reports that; None: never, or it has got over it."""
    query_asked_at: Mapped[int | None] = mapped_column(BigInteger)
    """Since when somebody waits for what it runs; None: nobody does."""
    group: Mapped[str] = mapped_column(String(100), default=DEFAULT_GROUP)
    label: Mapped[str] = mapped_column(String(200), default="")
    """An administrator's note."""
    mode: Mapped[Mode] = mapped_column(by_value(Mode), default=Mode.NORMAL)
    locked_at: Mapped[int | None] = mapped_column(BigInteger)
    """Since when an administrator has it locked; None: it is not."""
    lock_reason: Mapped[str] = mapped_column(String(200), default="")
    retired_at: Mapped[int | None] = mapped_column(BigInteger)
    """Since when it is out of service for good; it has to enrol again."""
    readmitted_at: Mapped[int | None] = mapped_column(BigInteger)
    """Since when a device that was retired may enrol again; None: it may not."""

    @property
    def name(self) -> bytes:
        """The EK's Name, or the enclave's."""
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
    group: Mapped[str] = mapped_column(String(100), default=DEFAULT_GROUP)
    """Where the device goes: what the token says, or the allow-list."""


class EnrolmentToken(Base):
    """A token, by its SHA-256 alone."""

    __tablename__ = "enrolment_tokens"
    __table_args__ = (Index("ix_enrolment_tokens_created_at_digest", "created_at", "digest"),)

    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    label: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[Millis]
    expires_at: Mapped[Millis]
    used_at: Mapped[int | None] = mapped_column(BigInteger)
    used_by: Mapped[str] = mapped_column(String(NAME_DIGITS))
    """The device that used it last."""
    revoked: Mapped[bool] = mapped_column(Boolean)
    group: Mapped[str] = mapped_column(String(100), default=DEFAULT_GROUP)
    """Where the devices go that enrol with it."""
    uses: Mapped[int] = mapped_column(default=0)
    uses_allowed: Mapped[int] = mapped_column(default=1)


class AllowedEk(Base):
    """An EK that is trusted by its Name, without a certificate and without a token."""

    __tablename__ = "allowed_eks"

    name: Mapped[str] = mapped_column(String(NAME_DIGITS), primary_key=True)
    label: Mapped[str] = mapped_column(String(200))
    added_at: Mapped[Millis]
    group: Mapped[str] = mapped_column(String(100), default=DEFAULT_GROUP)


class EkAuthority(Base):
    """A file of TPM vendors' CA certificates or revocation lists, as it was given."""

    __tablename__ = "ek_authorities"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    """Half of the file's SHA-256, in hexadecimal digits."""
    label: Mapped[str] = mapped_column(String(200))
    content: Mapped[bytes] = mapped_column(LargeBinary)
    kind: Mapped[str] = mapped_column(String(20))
    """`certificates`, `anchors` or `revocations`."""
    added_at: Mapped[Millis]
    added_by: Mapped[str] = mapped_column(String(200))


class EnclaveAuthority(Base):
    """A file by which enclaves' evidence is verified: certificates, collateral, as it was given."""

    __tablename__ = "enclave_authorities"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    """Half of the file's SHA-256, in hexadecimal digits."""
    label: Mapped[str] = mapped_column(String(200))
    content: Mapped[bytes] = mapped_column(LargeBinary)
    kind: Mapped[str] = mapped_column(String(20))
    """As `hwtrust_backend.enclaves.trust` names them."""
    added_at: Mapped[Millis]
    added_by: Mapped[str] = mapped_column(String(200))
