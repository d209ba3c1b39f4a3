"""Reading and writing big-endian TPM structures, with nothing left over.

The boundary between bytes from outside and typed structures. Rules:

1. Every shortage, surplus or oversize is a `MalformedError` that says which
   structure and where; `IndexError` and `struct.error` never leave.
2. A length field buys no memory: it is compared with what is there first.
3. Whoever decodes a whole structure calls `end()`: trailing bytes are refused.
"""

from __future__ import annotations

from typing import Final

from hwtrust.errors import MalformedError

U8_MAX: Final = 0xFF
U16_MAX: Final = 0xFFFF
U32_MAX: Final = 0xFFFF_FFFF
U64_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF


class Reader:
    """A cursor over `data`, which holds one `what` (the name used in errors)."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = bytes(data)
        self._what = what
        self._at = 0

    @property
    def remaining(self) -> int:
        """How many bytes are still unread."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """The next `count` bytes.

        Raises:
            MalformedError: fewer are left.
        """
        if not 0 <= count <= self.remaining:
            raise MalformedError(
                f"{self._what} is cut short: {count} bytes wanted at offset {self._at}, "
                f"{self.remaining} are left",
                offset=self._at,
            )
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def u8(self) -> int:
        """One byte."""
        return self.take(1)[0]

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
        size = self.u16()
        if size > most:
            raise MalformedError(
                f"{self._what} has a field of {size} bytes at offset {at}, {most} at most",
                offset=at,
            )
        return self.take(size)

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


def _pack(value: int, size: int, most: int) -> bytes:
    if not 0 <= value <= most:
        raise MalformedError(f"{value} does not fit into {size} bytes")
    return value.to_bytes(size, "big")


def u8(value: int) -> bytes:
    """`value` in one byte."""
    return _pack(value, 1, U8_MAX)


def u16(value: int) -> bytes:
    """`value` in two bytes, big-endian."""
    return _pack(value, 2, U16_MAX)


def u32(value: int) -> bytes:
    """`value` in four bytes, big-endian."""
    return _pack(value, 4, U32_MAX)


def u64(value: int) -> bytes:
    """`value` in eight bytes, big-endian."""
    return _pack(value, 8, U64_MAX)


def tpm2b(content: bytes) -> bytes:
    """`content` behind its u16 size."""
    return u16(len(content)) + content
