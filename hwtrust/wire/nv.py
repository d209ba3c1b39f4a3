"""The public area of an NV index: TPMS_NV_PUBLIC, TPM 2.0 Part 2 §13.6.

The Name of an index is a digest over all of it, so whoever knows a certified
Name and this structure knows how the index may be read and written.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final, Self

from hwtrust.errors import MalformedError
from hwtrust.wire import codec
from hwtrust.wire.algorithms import MAX_DIGEST_SIZE, Alg, new_hash, to_hash_alg
from hwtrust.wire.codec import Reader

_HANDLE_TYPE: Final = 0x01
_NT_MASK: Final = 0xF0
_NT_SHIFT = 4


class NvAttributes(IntFlag):
    """TPMA_NV, TPM 2.0 Part 2 §13.4; COUNTER to PIN_PASS are values of one field, TPM_NT."""

    PPWRITE = 1 << 0
    OWNERWRITE = 1 << 1
    AUTHWRITE = 1 << 2
    POLICYWRITE = 1 << 3
    COUNTER = 1 << 4
    BITS = 2 << 4
    EXTEND = 4 << 4
    PIN_FAIL = 8 << 4
    PIN_PASS = 9 << 4
    POLICY_DELETE = 1 << 10
    WRITELOCKED = 1 << 11
    WRITEALL = 1 << 12
    WRITEDEFINE = 1 << 13
    WRITE_STCLEAR = 1 << 14
    GLOBALLOCK = 1 << 15
    PPREAD = 1 << 16
    OWNERREAD = 1 << 17
    AUTHREAD = 1 << 18
    POLICYREAD = 1 << 19
    NO_DA = 1 << 25
    ORDERLY = 1 << 26
    CLEAR_STCLEAR = 1 << 27
    READLOCKED = 1 << 28
    WRITTEN = 1 << 29
    PLATFORMCREATE = 1 << 30
    READ_STCLEAR = 1 << 31


class NvType(IntEnum):
    """TPM_NT, TPM 2.0 Part 2 §13.2: how an index is written."""

    ORDINARY = 0
    COUNTER = 1
    BITS = 2
    EXTEND = 4
    PIN_FAIL = 8
    PIN_PASS = 9


@dataclass(frozen=True, slots=True)
class NvPublic:
    """TPMS_NV_PUBLIC.

    Raises:
        MalformedError: `index` is no NV handle.
        UnsupportedError: `name_alg` is no hash.
    """

    index: int
    name_alg: Alg
    attributes: NvAttributes
    auth_policy: bytes
    size: int

    def __post_init__(self) -> None:
        if self.index >> 24 != _HANDLE_TYPE:
            raise MalformedError(
                f"0x{self.index:08x} is no handle of an NV index", index=self.index
            )

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read a whole TPMS_NV_PUBLIC.

        Raises:
            MalformedError: cut short, followed by something, no NV handle.
            UnsupportedError: the name algorithm is no known hash.
        """
        reader = Reader(raw, "TPMS_NV_PUBLIC")
        public = cls(
            index=reader.u32(),
            name_alg=to_hash_alg(reader.u16()),
            attributes=NvAttributes(reader.u32()),
            auth_policy=reader.sized(MAX_DIGEST_SIZE),
            size=reader.u16(),
        )
        reader.end()
        return public

    @classmethod
    def decode_sized(cls, raw: bytes) -> Self:
        """Read a whole TPM2B_NV_PUBLIC."""
        reader = Reader(raw, "TPM2B_NV_PUBLIC")
        inner = reader.sized()
        reader.end()
        return cls.decode(inner)

    def encode(self) -> bytes:
        """The TPMS_NV_PUBLIC."""
        return (
            codec.u32(self.index)
            + codec.u16(self.name_alg)
            + codec.u32(self.attributes)
            + codec.tpm2b(self.auth_policy)
            + codec.u16(self.size)
        )

    def encode_sized(self) -> bytes:
        """The TPM2B_NV_PUBLIC."""
        return codec.tpm2b(self.encode())

    @property
    def name(self) -> bytes:
        """The index's Name: nameAlg || H(public area), TPM 2.0 Part 1 §16."""
        return codec.u16(self.name_alg) + new_hash(self.name_alg, self.encode())

    @property
    def type(self) -> int:
        """TPM_NT, one of the numbers in `NvType`."""
        return (int(self.attributes) & _NT_MASK) >> _NT_SHIFT
