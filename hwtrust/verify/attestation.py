"""What all attestations have in common: made by a TPM, signed, by whom, for whom.

    bytes ── read ──▶ Unverified ── run ──▶ ── authenticated ──▶ attest, info ──▶ Claims
                       (rules 1, 2)  (3)                 (4, 5)

Rules, in the order in which they are checked (the code carries their numbers):

1. magic      the message starts with TPM_GENERATED_VALUE. A restricted key signs
              nothing with this start that the TPM did not compose itself.
2. type       it is an attestation of the type that is asked for.
3. signature  the key made the signature, over the message as received.
4. signer     qualifiedSigner is the qualified Name of the attestation key: the
              same key bits with other attributes, or under another parent, have
              another one.
5. nonce      extraData is the challenge, byte by byte. An empty one is refused.

A caller that can go without one of these says so with a member of `Unsafe`.

Between `read` and `authenticated`, `hwtrust.verify.signature.run` checks the
signature, alone or with those of many others. What is signed is checked anew each
time, whatever was seen before.
"""

from __future__ import annotations

from enum import Enum, auto
from hmac import compare_digest
from typing import Final, Generic, Literal, TypeVar

import msgspec

from hwtrust.errors import AttestTypeError, EmptyNonceError, SignerError, StaleQuoteError
from hwtrust.verify.signature import SignatureCheck, prepare
from hwtrust.wire import codec
from hwtrust.wire.algorithms import new_hash, to_hash_alg
from hwtrust.wire.codec import Reader
from hwtrust.wire.structures import (
    Attest,
    CertifyInfo,
    ClockInfo,
    CreationInfo,
    NvCertifyInfo,
    Public,
    PublicKey,
    QuoteInfo,
    Signature,
)

OWNER: Final = 0x4000_0001
"""TPM_RH_OWNER."""
ENDORSEMENT: Final = 0x4000_000B
"""TPM_RH_ENDORSEMENT."""
PLATFORM: Final = 0x4000_000C
"""TPM_RH_PLATFORM."""

Info = TypeVar("Info", QuoteInfo, CertifyInfo, NvCertifyInfo, CreationInfo)


class Unsafe(Enum):
    """Spelled out by a caller that goes without a check; what is lost stands beside it."""

    NO_NONCE = auto()
    """The attestation may be a replay of any age."""
    ANY_SELECTION = auto()
    """The device, not the verifier, chooses what is quoted."""
    ANY_SIGNER = auto()
    """Nothing but the bare key is known of the signer: not its attributes, not its parent."""


_NO_NONCE: Final = Unsafe.NO_NONCE
_ANY_SIGNER: Final = Unsafe.ANY_SIGNER

Nonce = bytes | Literal[Unsafe.NO_NONCE]
Signer = bytes | Literal[Unsafe.ANY_SIGNER]

VERIFIED: Final = object()
"""What `Claims` are made with; only the modules of this package use it."""

take_away: Final = msgspec.structs.force_setattr
"""For the token, once it was seen: a copy with other contents cannot pass for what was verified."""


class Claims(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What an authentic attestation says; only `hwtrust.verify` makes them."""

    nonce: bytes
    """extraData: the challenge, or whatever there was if the caller took any."""
    qualified_signer: bytes
    clock: ClockInfo
    firmware_version: int
    verified: object

    def __post_init__(self) -> None:
        if self.verified is not VERIFIED:
            raise made_elsewhere(self)
        take_away(self, "verified", None)


def made_elsewhere(made: msgspec.Struct) -> TypeError:
    """The error of whoever has not the token that `made` is made with."""
    return TypeError(f"{type(made).__name__} are made by hwtrust.verify alone")


class Unverified(msgspec.Struct, Generic[Info], frozen=True, eq=False, gc=False):
    """An attestation as it was read; nothing of it is believed yet."""

    attest: Attest
    info: Info
    check: SignatureCheck
    """Of its signature; to be run before `authenticated`."""


def read(
    message: bytes,
    signature: bytes | Signature,
    info: type[Info],
    *,
    key: Public | PublicKey,
    unsafe_allow_sha1: bool = False,
) -> Unverified[Info]:
    """Read an attestation whose type is that of `info`, and prepare all that its signature needs.

    Raises:
        EvidenceError: it is not of that type, or the key makes no such signature.
        WireError: message or signature are malformed.
    """
    # (1): magic, which the decoder reads before all else.
    attest = Attest.decode(message)
    # (2): type.
    attested = attest.attested
    if not isinstance(attested, info):
        raise AttestTypeError(
            f"the attestation is of type {attest.type.name}, asked for is {info.__name__}",
            type=int(attest.type),
        )
    # (3): signature, over `message`, never over a re-encoding of `attest`.
    check = prepare(key, signature, message, unsafe_allow_sha1=unsafe_allow_sha1)
    return Unverified(attest, attested, check)


def authenticated(unverified: Unverified[Info], *, nonce: Nonce, signer: Signer) -> Attest:
    """The attestation, of which `info` is a part, by rules 3 to 5.

    Raises:
        EvidenceError: it is not authentic, or its signature was not checked.
    """
    attest = unverified.attest
    # (3): signature.
    unverified.check.require_passed()
    # (4): signer.
    if signer is not _ANY_SIGNER and not (
        signer and compare_digest(attest.qualified_signer, signer)
    ):
        raise SignerError(
            "the attestation was signed by another key than the attestation key that is expected",
            expected=signer.hex(),
            found=attest.qualified_signer.hex(),
        )
    # (5): nonce.
    if nonce is not _NO_NONCE:
        if not nonce:
            raise EmptyNonceError("the nonce is empty: whatever answers it may be of any age")
        if not compare_digest(attest.extra_data, nonce):
            raise StaleQuoteError(
                "the attestation answers another nonce than the one that was sent"
            )
    return attest


def qualified_name(name: bytes, *, hierarchy: int) -> bytes:
    """The qualified Name of the primary object `name` in `hierarchy`, a TPM_RH handle.

    nameAlg || H(hierarchy || Name), TPM 2.0 Part 1 §16.

    Raises:
        MalformedError: `name` is no Name.
        UnsupportedError: its hash is not known.
    """
    return qualified_name_under(bytes(name), parent=codec.u32(hierarchy))


def qualified_name_under(name: bytes, *, parent: bytes) -> bytes:
    """The qualified Name of the object `name` whose parent has the qualified Name `parent`.

    Raises:
        MalformedError: `name` is no Name.
        UnsupportedError: its hash is not known.
    """
    reader = Reader(name, "Name")
    alg = to_hash_alg(reader.u16())
    digest = new_hash(alg, parent + name)
    reader.take(len(digest))
    reader.end()
    return codec.u16(alg) + digest
