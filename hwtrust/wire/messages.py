"""What a device and a backend say to each other, as JSON.

    device                                          backend
      ── EnrolBegin (EK, certificate, token) ─────────▶
      ◀───────── EnrolChallenge (nonce, counter leave) ──
      ── EnrolKey (AK) ──────────────────────────────▶
      ◀────────────────── EnrolCredential (for that AK) ──
      ── EnrolFinish (secret, keys, counter, quote) ─▶
      ◀──────────────────── Enrolled (certificate, root) ──
      ── ChallengeRequest ───────────────────────────▶
      ◀─────────────────────────────── ChallengeReply ──
      ── AttestRequest (evidence) ───────────────────▶
      ◀─ AttestReply (verdict, time, actions, challenge) ──

Rules:
1. Bytes are base64 in JSON; times are UTC milliseconds unless named otherwise;
   a device is named by its EK's Name.
2. Requests refuse unknown fields; replies ignore them, so that a newer backend
   can serve older devices.
3. `Binding` is what a quote signs over: nothing beside a quote is believed
   unless it hashes in.
"""

from __future__ import annotations

import hashlib
import struct
from enum import StrEnum
from struct import Struct
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from hwtrust.errors import MalformedError
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.codec import tpm2b
from hwtrust.wire.envelope import Envelope
from hwtrust.wire.root import Approval, Increment, RootDelivery
from hwtrust.wire.statement import STATEMENT_LIMIT

Blob = Annotated[bytes, Meta(max_length=8192)]
Log = Annotated[bytes, Meta(max_length=4 * 1024 * 1024)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]

FIRMWARE_LOG_LIMIT: Final = 1024 * 1024
IMA_LIMIT: Final = 512 * 1024
"""Bytes of an IMA log in one message: in base64, with all else, below what backends take."""

FIRMWARE_LOG: Final = "firmware-log"
IMA_LOG: Final = "ima-log"
"""What an answer may want."""

Label = Annotated[str, Meta(min_length=1, max_length=200)]
Epoch = Annotated[int, Meta(ge=0, le=2**63 - 1)]

_BINDINGS: Final = {
    purpose: tpm2b(b"hwtrust binding v1") + tpm2b(purpose.encode()) for purpose in Purpose
}
"""What a binding's digest begins with."""
RELEASE_KEY_SIZE: Final = 32
_SIZE: Final = Struct(">H")
_EPOCH: Final = Struct(">HQ")
"""An epoch behind its size."""


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device sends."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend answers."""


# --- releases --------------------------------------------------------------------


class LayerReference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A layer as it should be: SHA-256 of a file, or the canonical digest of a tree."""

    name: Label
    version: Label
    digest: Digest


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The layers of one release, in load order."""

    name: Label
    layers: Annotated[tuple[LayerReference, ...], Meta(min_length=1, max_length=64)]


# --- evidence --------------------------------------------------------------------


class TlsKeyKind(StrEnum):
    """Where a device's TLS key lives."""

    TPM = "tpm"
    ATTESTED = "attested"


class Signed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A TPMS_ATTEST and its TPMT_SIGNATURE."""

    message: Blob
    signature: Blob


class Binding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a quote's qualifyingData, or an enclave's report data, is the digest of."""

    purpose: Purpose
    nonce: Blob
    tls_key: Blob
    """SubjectPublicKeyInfo, DER."""
    epoch: Epoch
    release: Annotated[str, Meta(max_length=200, pattern="^[^\\x00]*$")]
    log_digest: Digest
    statement: Annotated[bytes, Meta(max_length=STATEMENT_LIMIT)] = b""
    """What the device says of itself (`hwtrust.wire.statement`); not hashed where empty."""
    release_key: Annotated[bytes, Meta(max_length=RELEASE_KEY_SIZE)] = b""
    """X25519, raw: to whom roots are sealed where there is no TPM; not hashed where empty."""

    def digest(self) -> bytes:
        """SHA-256 of the length-prefixed fields: the qualifyingData, 32 bytes."""
        return hashlib.sha256(self._fields()).digest()

    def report_data(self) -> bytes:
        """SHA-512 of the same: the report data of an enclave, 64 bytes."""
        return hashlib.sha512(self._fields()).digest()

    def _fields(self) -> bytes:
        release = self.release.encode()
        try:
            fields: tuple[bytes, ...] = (
                _BINDINGS[self.purpose],
                _SIZE.pack(len(self.nonce)),
                self.nonce,
                _SIZE.pack(len(self.tls_key)),
                self.tls_key,
                _EPOCH.pack(_EPOCH.size - _SIZE.size, self.epoch),
                _SIZE.pack(len(release)),
                release,
                _SIZE.pack(len(self.log_digest)),
                self.log_digest,
            )
            if self.statement or self.release_key:
                fields += _SIZE.pack(len(self.statement)), self.statement
            if self.release_key:
                fields += _SIZE.pack(len(self.release_key)), self.release_key
        except struct.error:
            raise MalformedError("a field of the binding is too long") from None
        return b"".join(fields)


class ImaPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Entries of the kernel's IMA log, as `binary_runtime_measurements` has them.

    `start` is how many entries of the PCR come before them in this boot; the backend
    has seen those. With `more`, the log goes on, and so do the next attestations:
    oldest first, until the quoted value is reached.
    """

    start: Annotated[int, Meta(ge=0, le=1 << 20)]
    entries: Annotated[bytes, Meta(max_length=IMA_LIMIT)]
    more: bool = False


class Evidence(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What a TPM says of its device, under the attestation key.

    `quote` covers the SHA-256 PCRs whose values are in `pcrs`; `counter` is the
    epoch counter under TPM2_NV_Certify; both sign the binding's digest. `log`
    is our event log (CEL-TLV).

    The logs of firmware and kernel come where the backend wants them (`AttestReply`).
    The binding does not name them: the quoted values prove them, or nothing does.
    """

    binding: Binding
    quote: Signed
    pcrs: Annotated[dict[int, Digest], Meta(max_length=24)]
    log: Log
    counter: Signed
    firmware_log: Annotated[bytes, Meta(max_length=FIRMWARE_LOG_LIMIT)] = b""
    """What the firmware measured, as `binary_bios_measurements` has it."""
    ima: ImaPart | None = None


# --- enrolment -------------------------------------------------------------------


class EnrolBegin(Request, frozen=True, kw_only=True):
    """Ask to enrol the TPM whose EK this is (TPM2B_PUBLIC; certificate DER as NV holds it)."""

    ek_public: Blob
    ek_certificate: Annotated[bytes, Meta(max_length=16384)] = b""
    ek_intermediates: Annotated[tuple[Blob, ...], Meta(max_length=8)] = ()
    token: Annotated[str, Meta(max_length=200)] = ""


class EnrolChallenge(Reply, frozen=True, kw_only=True):
    """The nonce for `unique` of the AK and for certifying, the time, and the first increment."""

    enrolment: str
    nonce: bytes
    time: Envelope
    increment: Increment


class EnrolKey(Request, frozen=True, kw_only=True):
    """The attestation key, TPM2B_PUBLIC."""

    ak_public: Blob


class EnrolCredential(Reply, frozen=True, kw_only=True):
    """TPM2_ActivateCredential's parameters: TPM2B contents without their size."""

    id_object: bytes
    encrypted_secret: bytes


class EnrolFinish(Request, frozen=True, kw_only=True, omit_defaults=True):
    """The recovered secret, and all that the AK certifies.

    `counter_public` is the epoch counter's TPMS_NV_PUBLIC. `storage_certify`
    signs the nonce; `tls_certify` signs H(nonce || csr) and is there for a TLS
    key of kind `tpm`.
    """

    secret: Annotated[bytes, Meta(max_length=64)]
    storage_public: Blob
    storage_certify: Signed
    counter_public: Blob
    selection: Annotated[str, Meta(max_length=200)]
    pcr: Annotated[int, Meta(ge=8, le=15)] | None = None
    """The application PCR; None: the one of 8 to 15 that is selected."""
    tls_kind: TlsKeyKind
    csr: Blob
    tls_public: Blob = b""
    tls_certify: Signed | None = None
    evidence: Evidence


# --- verdicts and attestation ------------------------------------------------------


class Severity(StrEnum):
    """How a finding weighs."""

    FAIL = "fail"
    """The device is not in an accepted state."""
    INCOMPLETE = "incomplete"
    """Nothing speaks against the device, but something is not shown yet."""
    ALERT = "alert"
    """Accepted, and an administrator should look."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that appraisal found: a stable code, and a sentence for a person."""

    code: str
    severity: Severity
    message: str


class Standing(StrEnum):
    """What the findings come to."""

    TRUSTED = "trusted"
    INCOMPLETE = "incomplete"
    FAILED = "failed"


class Mode(StrEnum):
    """What a device may do, by its verdict and its policy; the host application is told."""

    NORMAL = "normal"
    LIMITED = "limited"
    """It keeps what it has until that expires; its root is neither renewed nor replaced."""
    LOCKED = "locked"
    """As limited, and it drops its keys at once."""


class SignedTime(msgspec.Struct, frozen=True, kw_only=True):
    """The backend's clock, UTC milliseconds, for one device in answer to one nonce."""

    device: bytes
    nonce: bytes
    utc_ms: int


class ChallengeRequest(Request, frozen=True, kw_only=True):
    """Ask for a nonce."""

    device: Blob
    purpose: Purpose


class ChallengeReply(Reply, frozen=True, kw_only=True):
    """A nonce, as `hwtrust.wire.challenge` makes it."""

    nonce: bytes


class AttestRequest(Request, frozen=True, kw_only=True):
    """Evidence, and a request for a certificate for its TLS key where one is needed."""

    device: Blob
    evidence: Evidence
    csr: Blob = b""


class UpdateOrder(Reply, frozen=True, kw_only=True):
    """The release that the device is to run; the answer to one question for all layers.

    Where `forced`, what it runs now is not accepted any more, or not for long: it
    updates at once, or is locked.
    """

    release: Label
    forced: bool = False


class AttestReply(Reply, frozen=True, kw_only=True):
    """The verdict and everything that follows from it, with the next challenge.

    `approval` renews the leave to open the current root; `root` is the next one;
    `certificate` is a PEM chain for the TLS key in the evidence's binding; `update`
    names another release than the running one. The next attestation is expected
    within `heartbeat_ms`; without any the device may run on for `offline_grace_ms`.
    0 says nothing of either.

    `wants` names logs that are to come with one more attestation, at once; until then
    there is neither approval nor root. Of the IMA log these are the entries of the PCR
    `ima_pcr`, from the one of number `ima_start` on.
    """

    standing: Standing
    findings: tuple[Finding, ...]
    time: Envelope
    challenge: bytes
    mode: Mode = Mode.NORMAL
    heartbeat_ms: int = 0
    offline_grace_ms: int = 0
    approval: Approval | None = None
    root: RootDelivery | None = None
    certificate: str = ""
    update: UpdateOrder | None = None
    wants: tuple[str, ...] = ()
    ima_start: int = 0
    ima_pcr: int = 10


class Enrolled(Reply, frozen=True, kw_only=True):
    """The device is known: its certificate and its first root."""

    device: bytes
    certificate: str
    root: RootDelivery
    challenge: bytes
    time: Envelope


# --- events and waiting ------------------------------------------------------------


class EventReport(Request, frozen=True, kw_only=True):
    """Something that the device's application has met: a transaction, secure input.

    The group's policy says which kinds make the root due.
    """

    kind: Annotated[str, Meta(min_length=1, max_length=60, pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    detail: Annotated[str, Meta(max_length=200)] = ""


class EventReply(Reply, frozen=True, kw_only=True):
    """The event is noted; `attest` says whether to attest now, for the next root."""

    attest: bool


class WaitReply(Reply, frozen=True, kw_only=True):
    """There is something for the device: it should attest now."""

    attest: bool
    reason: str


# --- trust -----------------------------------------------------------------------


class TrustAnchor(msgspec.Struct, frozen=True, kw_only=True):
    """What a device is given of its backend before it ever connects. It ships with the device.

    `tls_ca` is PEM; the keys are SubjectPublicKeyInfo, PEM, P-256. `releases` is the
    TUF root.json by which devices believe releases; empty where none are published.
    """

    url: str
    tls_ca: str
    policy_key: str
    metadata_key: str
    releases: bytes = b""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as the HTTP API answers it (RFC 9457), with the error's code."""

    type: str = "about:blank"
    title: str
    status: int
    code: str = ""
    detail: str = ""
    hint: str = ""
