"""What a TPM signs: TPMS_ATTEST, TPM 2.0 Part 2 §10.12.

Decoding believes nothing: an `Attest` says what the bytes say. Only
`hwtrust.verify` turns one into claims. Rules:

1. `raw` is what was received; signatures are checked over it, never over a
   re-encoding.
2. The magic comes first. Without TPM_GENERATED_VALUE the bytes may have been
   signed by the right key and still not have been made by the TPM.
3. Types that hwtrust does not believe (time, audit) are refused while decoding.
4. What differs from one attestation of a device to the next is its nonce and its
   clock, at the start. What is attested, at the end, comes again with every
   heartbeat: the last ones read are kept, by their type and all of their bytes.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import lru_cache
from struct import Struct
from typing import Final, NoReturn, Self

import msgspec

from hwtrust.errors import AttestTypeError, MalformedError, NotAttestedError
from hwtrust.wire import codec
from hwtrust.wire.algorithms import MAX_DIGEST_SIZE
from hwtrust.wire.codec import Reader
from hwtrust.wire.selection import PcrSelection

GENERATED: Final = 0xFF544347
"""TPM_GENERATED_VALUE: 0xFF and `TCG`."""

MAX_NAME: Final = 2 + MAX_DIGEST_SIZE
MAX_DATA: Final = 2 + MAX_DIGEST_SIZE
MAX_NV_CONTENTS: Final = 4096

KEPT: Final = 8192
"""How many attested infos are kept: two for each device, some 400 bytes each."""
LONGEST_KEPT: Final = 256

_HEAD: Final = Struct(">IHH")
"""magic, type, and the size of qualifiedSigner."""
_SIZE: Final = Struct(">H")
_CLOCK: Final = Struct(">QIIB")
_BODY: Final = Struct(">QIIBQ")
"""TPMS_CLOCK_INFO and firmwareVersion."""


class AttestType(IntEnum):
    """TPMI_ST_ATTEST, TPM 2.0 Part 2 §10.12.10: all that a TPM may sign."""

    __hash__ = int.__hash__

    NV = 0x8014
    COMMAND_AUDIT = 0x8015
    SESSION_AUDIT = 0x8016
    CERTIFY = 0x8017
    QUOTE = 0x8018
    TIME = 0x8019
    CREATION = 0x801A
    NV_DIGEST = 0x801C


class ClockInfo(msgspec.Struct, frozen=True, gc=False):
    """TPMS_CLOCK_INFO, TPM 2.0 Part 2 §10.11.1."""

    clock: int
    """Milliseconds; only ever moves forward, save for TPM2_Clear."""
    reset_count: int
    restart_count: int
    safe: bool
    """Whether no higher value of `clock` can have been reported before."""

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read one; what follows it stays in `reader`.

        Raises:
            MalformedError: cut short, or `safe` is neither YES nor NO.
        """
        clock, reset_count, restart_count, safe = reader.unpack(_CLOCK)
        return cls(clock, reset_count, restart_count, _yes_no(safe))

    def encode(self) -> bytes:
        """The TPMS_CLOCK_INFO."""
        return (
            codec.u64(self.clock)
            + codec.u32(self.reset_count)
            + codec.u32(self.restart_count)
            + codec.u8(self.safe)
        )


class QuoteInfo(msgspec.Struct, frozen=True, gc=False):
    """TPMS_QUOTE_INFO: which PCRs, and the digest of their values."""

    selection: PcrSelection
    digest: bytes

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read one; what follows it stays in `reader`."""
        return cls(PcrSelection.decode(reader), reader.sized(MAX_DIGEST_SIZE))

    def encode(self) -> bytes:
        """The TPMS_QUOTE_INFO."""
        return self.selection.encode() + codec.tpm2b(self.digest)


class CertifyInfo(msgspec.Struct, frozen=True, gc=False):
    """TPMS_CERTIFY_INFO: the Name and qualified Name of an object in the TPM."""

    name: bytes
    qualified_name: bytes

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read one; what follows it stays in `reader`."""
        return cls(reader.sized(MAX_NAME), reader.sized(MAX_NAME))

    def encode(self) -> bytes:
        """The TPMS_CERTIFY_INFO."""
        return codec.tpm2b(self.name) + codec.tpm2b(self.qualified_name)


class NvCertifyInfo(msgspec.Struct, frozen=True, gc=False):
    """TPMS_NV_CERTIFY_INFO: a part of the contents of an NV index."""

    index_name: bytes
    offset: int
    contents: bytes

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read one; what follows it stays in `reader`."""
        return cls(reader.sized(MAX_NAME), reader.u16(), reader.sized(MAX_NV_CONTENTS))

    def encode(self) -> bytes:
        """The TPMS_NV_CERTIFY_INFO."""
        return codec.tpm2b(self.index_name) + codec.u16(self.offset) + codec.tpm2b(self.contents)


class CreationInfo(msgspec.Struct, frozen=True, gc=False):
    """TPMS_CREATION_INFO: an object's Name and the digest of its creation data."""

    name: bytes
    creation_hash: bytes

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Read one; what follows it stays in `reader`."""
        return cls(reader.sized(MAX_NAME), reader.sized(MAX_DIGEST_SIZE))

    def encode(self) -> bytes:
        """The TPMS_CREATION_INFO."""
        return codec.tpm2b(self.name) + codec.tpm2b(self.creation_hash)


Attested = QuoteInfo | CertifyInfo | NvCertifyInfo | CreationInfo

_CLASSES: Final[dict[AttestType, type[Attested]]] = {
    AttestType.QUOTE: QuoteInfo,
    AttestType.CERTIFY: CertifyInfo,
    AttestType.NV: NvCertifyInfo,
    AttestType.CREATION: CreationInfo,
}
_TYPES: Final = {cls: type_ for type_, cls in _CLASSES.items()}
_TYPES_BY_NUMBER: Final = {int(type_): type_ for type_ in _CLASSES}


class Attest(msgspec.Struct, frozen=True, gc=False):
    """TPMS_ATTEST: who signed, over what, when, and what is attested."""

    raw: bytes
    type: AttestType
    qualified_signer: bytes
    extra_data: bytes
    clock: ClockInfo
    firmware_version: int
    attested: Attested

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a whole TPMS_ATTEST.

        Raises:
            NotAttestedError: no TPM_GENERATED_VALUE at the start.
            AttestTypeError: neither quote, certify, NV certify nor creation.
            MalformedError: cut short, or followed by something.
            UnsupportedError: an unknown PCR bank.
        """
        raw = bytes(raw)
        try:
            magic, number, signer_size = _HEAD.unpack_from(raw)
            # (2): magic.
            if magic != GENERATED:
                raise NotAttestedError(
                    "the attestation was not made by a TPM: TPM_GENERATED_VALUE is missing"
                )
            signer_end = _HEAD.size + signer_size
            (data_size,) = _SIZE.unpack_from(raw, signer_end)
            data_end = signer_end + 2 + data_size
            clock, reset_count, restart_count, safe, firmware = _BODY.unpack_from(raw, data_end)
        except struct.error:
            raise MalformedError("TPMS_ATTEST is cut short", size=len(raw)) from None
        # (3): types.
        type_ = _TYPES_BY_NUMBER.get(number) or _refused(number)
        if signer_size > MAX_NAME or data_size > MAX_DATA:
            raise MalformedError("TPMS_ATTEST has a Name or data that is longer than any digest")
        rest = raw[data_end + _BODY.size :]
        return cls(
            raw,
            type_,
            raw[_HEAD.size : signer_end],
            raw[signer_end + 2 : data_end],
            ClockInfo(clock, reset_count, restart_count, safe == 1 or _yes_no(safe)),
            firmware,
            # (4): what comes again.
            _kept(type_, rest) if len(rest) <= LONGEST_KEPT else _attested(type_, rest),
        )

    @classmethod
    def build(
        cls,
        *,
        qualified_signer: bytes,
        extra_data: bytes,
        clock: ClockInfo,
        firmware_version: int,
        attested: Attested,
    ) -> Self:
        """Make what a TPM would sign; the type follows from `attested`."""
        type_ = _TYPES[type(attested)]
        raw = (
            codec.u32(GENERATED)
            + codec.u16(type_)
            + codec.tpm2b(qualified_signer)
            + codec.tpm2b(extra_data)
            + clock.encode()
            + codec.u64(firmware_version)
            + attested.encode()
        )
        return cls(raw, type_, qualified_signer, extra_data, clock, firmware_version, attested)

    def encode(self) -> bytes:
        """The TPMS_ATTEST, from the fields; equal to `raw`."""
        return self.build(
            qualified_signer=self.qualified_signer,
            extra_data=self.extra_data,
            clock=self.clock,
            firmware_version=self.firmware_version,
            attested=self.attested,
        ).raw


def _attested(type_: AttestType, raw: bytes) -> Attested:
    """What is attested, all of `raw`."""
    reader = Reader(raw, "TPMS_ATTEST")
    attested = _CLASSES[type_].read(reader)
    reader.end()
    return attested


_kept = lru_cache(maxsize=KEPT)(_attested)


def _yes_no(value: int) -> bool:
    if value > 1:
        raise MalformedError(f"TPMS_CLOCK_INFO says {value} where YES (1) or NO (0) must stand")
    return value == 1


def _refused(number: int) -> NoReturn:
    try:
        type_ = AttestType(number)
    except ValueError:
        raise AttestTypeError(f"0x{number:04x} is no type of attestation", type=number) from None
    raise AttestTypeError(
        f"an attestation of type {type_.name} is not one that hwtrust believes", type=number
    )
