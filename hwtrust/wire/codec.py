"""Reading and writing big-endian TPM structures, with nothing left over.

The boundary between bytes from outside and typed structures. Rules:

1. Every shortage, surplus or oversize is a `MalformedError` that says which
   structure and where; `IndexError` and `struct.error` never leave.
2. A length field buys no memory: it is compared with what is there first.
3. Whoever decodes a whole structure calls `end()`: trailing bytes are refused.
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import Any, Final

from hwtrust.errors import MalformedError

U16_MAX: Final = 0xFFFF
U64_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF

_U8: Final = Struct(">B")
_U16: Final = Struct(">H")
_U32: Final = Struct(">I")
_U64: Final = Struct(">Q")


class Reader:
    """A cursor over `data`, which holds one `what` (the name used in errors)."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = bytes(data)
        self._what = what
        self._at = 0

    @property
    def offset(self) -> int:
        """How many bytes have been read."""
        return self._at

    @property
    def remaining(self) -> int:
        """How many bytes are still unread."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """The next `count` bytes.

        Raises:
            MalformedError: fewer are left.
        """
        at = self._at
        end = at + count
        if not at <= end <= len(self._data):
            raise self._cut_short(count)
        self._at = end
        return self._data[at:end]

    def unpack(self, form: Struct) -> tuple[Any, ...]:
        """The next bytes as the fields of `form`.

        Raises:
            MalformedError: fewer bytes are left.
        """
        try:
            fields = form.unpack_from(self._data, self._at)
        except struct.error:
            raise self._cut_short(form.size) from None
        self._at += form.size
        return fields

    def since(self, offset: int) -> bytes:
        """What was read from `offset` on, once more."""
        return self._data[offset : self._at]

    def u8(self) -> int:
        """One byte."""
        at = self._at
        if at == len(self._data):
            raise self._cut_short(1)
        self._at = at + 1
        return self._data[at]

    def u16(self) -> int:
        """Two bytes, big-endian."""
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        """Four bytes, big-endian."""
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        """Eight bytes, big-endian."""
        return int.from_bytes(self.take(8), "big")

    def sized(self, most: int = U16_MAX) -> bytes:
        """A TPM2B: a u16 size and that many bytes, `most` at most.

        Raises:
            MalformedError: the size exceeds `most` or what is left.
        """
        at = self._at
        start = at + 2
        size = int.from_bytes(self._data[at:start], "big")
        end = start + size
        if size <= most and end <= len(self._data):
            self._at = end
            return self._data[start:end]
        size = self.u16()
        if size > most:
            raise MalformedError(
                f"{self._what} has a field of {size} bytes at offset {at}, {most} at most",
                offset=at,
            )
        raise self._cut_short(size)

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.remaining)

    def end(self) -> None:
        """Require that nothing is left.

        Raises:
            MalformedError: trailing bytes.
        """
        if self.remaining:
            raise MalformedError(
                f"{self._what} is followed by {self.remaining} bytes that do not belong to it",
                offset=self._at,
            )

    def _cut_short(self, count: int) -> MalformedError:
        return MalformedError(
            f"{self._what} is cut short: {count} bytes wanted at offset {self._at}, "
            f"{self.remaining} are left",
            offset=self._at,
        )


def _pack(value: int, form: Struct) -> bytes:
    try:
        return form.pack(value)
    except struct.error:
        raise MalformedError(f"{value} does not fit into {form.size} bytes") from None


def u8(value: int) -> bytes:
    """`value` in one byte."""
    return _pack(value, _U8)


def u16(value: int) -> bytes:
    """`value` in two bytes, big-endian."""
    return _pack(value, _U16)


def u32(value: int) -> bytes:
    """`value` in four bytes, big-endian."""
    return _pack(value, _U32)


def u64(value: int) -> bytes:
    """`value` in eight bytes, big-endian."""
    return _pack(value, _U64)


def tpm2b(content: bytes) -> bytes:
    """`content` behind its u16 size."""
    try:
        return _U16.pack(len(content)) + content
    except struct.error:
        raise MalformedError(f"{len(content)} does not fit into {_U16.size} bytes") from None
