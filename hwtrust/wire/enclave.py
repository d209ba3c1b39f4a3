"""What an enclave and a backend say to each other, as JSON; and its root, sealed to it.

    enclave                                         backend
      ── EnclaveChallengeRequest (its TLS key) ──────▶
      ◀──────────────────────────────── ChallengeReply ──
      ── EnclaveEnrol (token, evidence, CSR) ─────────▶
      ◀───────── EnclaveEnrolled (certificate, root) ──
      ── EnclaveAttest (evidence) ────────────────────▶
      ◀── EnclaveReply (verdict, time, root, challenge) ──

An enclave or confidential VM has no endorsement key that could decrypt, and most have
nothing that keeps a secret. Rules:

1. It is known by its TLS key: `enclave_name`. One that can seal keeps that key, and
   is the same device after a restart; any other is a new device.
2. The evidence binds the binding: `Binding.report_data` is its report data. The
   binding names the TLS key, and the key to which roots are sealed.
3. A root is sealed with HPKE (RFC 9180, base mode: DHKEM X25519, HKDF-SHA256,
   AES-256-GCM) to that key. Its info is the digest of the root's signed metadata: it
   opens for this device, epoch and key, or not at all.
4. No hardware counts its epochs: revocation is the backend's word, and the enclave's
   measured code that heeds it.
5. As in `hwtrust.wire.messages`: requests refuse unknown fields, replies ignore them.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from msgspec import Meta

from hwtrust.errors import RootObjectError
from hwtrust.wire.challenge import Purpose
from hwtrust.wire.codec import tpm2b
from hwtrust.wire.envelope import Envelope
from hwtrust.wire.messages import (
    Binding,
    Blob,
    Finding,
    Log,
    Mode,
    Reply,
    Request,
    Standing,
    UpdateOrder,
)

ROOT_SIZE: Final = 32
EVIDENCE_LIMIT: Final = 1 << 20
"""Characters of wrapped evidence: a quote, its certificates, a GPU's report."""

_SHA256_NAME: Final = b"\x00\x0b"
"""As a TPM Name begins: nameAlg."""
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class EnclaveKind(StrEnum):
    """What an enclave's evidence is."""

    SNP = "snp"
    TDX = "tdx"
    SGX = "sgx"
    NITRO = "nitro"
    CCA = "cca"
    AZURE = "azure"
    """A vTPM inside SEV-SNP or TDX."""


class EnclaveEvidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an enclave's hardware says of it, for `binding`.

    `evidence` is a CMW collection (`hwtrust.verify.enclaves.kinds` says of what parts);
    `log` is our event log (CEL-TLV), whose digest `binding` names.
    """

    kind: EnclaveKind
    binding: Binding
    log: Log
    evidence: Annotated[str, Meta(max_length=EVIDENCE_LIMIT)]


class EnclaveChallengeRequest(Request, frozen=True, kw_only=True):
    """Ask for a nonce, for the enclave with this TLS key (SubjectPublicKeyInfo, DER)."""

    kind: EnclaveKind
    tls_key: Blob
    purpose: Purpose


class EnclaveEnrol(Request, frozen=True, kw_only=True):
    """Become known; `csr` is for the TLS key in the evidence's binding."""

    evidence: EnclaveEvidence
    csr: Blob
    token: Annotated[str, Meta(max_length=200)] = ""


class EnclaveRootMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend says of an enclave's root, under its metadata key. Times are UTC ms."""

    device: bytes
    epoch: int
    release: str
    not_before: int
    not_after: int
    release_key: bytes
    """To whom it is sealed."""


class EnclaveRoot(msgspec.Struct, frozen=True, kw_only=True):
    """A root for one enclave: its signed metadata, and its 32 bytes under HPKE."""

    metadata: Envelope
    sealed: bytes


class EnclaveEnrolled(Reply, frozen=True, kw_only=True):
    """The enclave is known: its certificate (PEM chain) and its first root."""

    device: bytes
    certificate: str
    root: EnclaveRoot
    challenge: bytes
    time: Envelope
    heartbeat_ms: int = 0
    offline_grace_ms: int = 0


class EnclaveAttest(Request, frozen=True, kw_only=True):
    """Evidence, and a request for a certificate where one is needed."""

    device: Blob
    evidence: EnclaveEvidence
    csr: Blob = b""


class EnclaveReply(Reply, frozen=True, kw_only=True):
    """The verdict and what follows from it, as `AttestReply`.

    `root` is the next root, which is due at once where the binding names epoch 0: the
    enclave has none.
    """

    standing: Standing
    findings: tuple[Finding, ...]
    time: Envelope
    challenge: bytes
    mode: Mode = Mode.NORMAL
    heartbeat_ms: int = 0
    offline_grace_ms: int = 0
    root: EnclaveRoot | None = None
    certificate: str = ""
    update: UpdateOrder | None = None


def enclave_name(kind: EnclaveKind, tls_key: bytes) -> bytes:
    """By what an enclave is known; it has the form of a TPM Name."""
    named = tpm2b(b"hwtrust enclave v1") + tpm2b(kind.encode()) + tpm2b(tls_key)
    return _SHA256_NAME + hashlib.sha256(named).digest()


def seal_root(secret: bytes, *, release_key: bytes, metadata: Envelope) -> bytes:
    """Seal a root's 32 bytes to the enclave that `release_key` is of; `metadata` is signed.

    Raises:
        RootObjectError: it is no X25519 key.
    """
    try:
        public = X25519PublicKey.from_public_bytes(release_key)
        return _SUITE.encrypt(secret, public, info=_info(metadata))
    except ValueError as error:
        raise RootObjectError("the key to seal a root to is no X25519 key") from error


def open_root(sealed: bytes, *, key: X25519PrivateKey, metadata: Envelope) -> bytes:
    """The 32 bytes of a root; `metadata` has been verified.

    Raises:
        RootObjectError: it was sealed to another key, or for other metadata.
    """
    try:
        secret = _SUITE.decrypt(sealed, key, info=_info(metadata))
    except (InvalidTag, ValueError) as error:
        message = "the root was not sealed to this enclave's key for this metadata"
        raise RootObjectError(message) from error
    if len(secret) != ROOT_SIZE:
        raise RootObjectError(f"a root has {ROOT_SIZE} bytes, not {len(secret)}")
    return secret


def _info(metadata: Envelope) -> bytes:
    return b"hwtrust enclave root v1" + hashlib.sha256(metadata.payload).digest()
