"""Which PCRs of which banks: TPML_PCR_SELECTION, TPM 2.0 Part 2 §10.9.7.

Rules:

1. The order of the banks is kept: it decides the order in which a TPM hashes
   PCR values, so `sha1+sha256` and `sha256+sha1` are different selections.
2. A bank occurs once. PCR numbers within a bank are ascending and unique.
3. Bitmaps are written with 3 bytes, as tpm2-tools and the Linux kernel do; a
   decoded selection remembers the width that it came in.
4. A fleet has few selections, and each of them comes again with every quote: the
   last ones read are kept, by all of their bytes or all of their text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct
from typing import Final

from hwtrust.errors import MalformedError
from hwtrust.wire import codec
from hwtrust.wire.algorithms import Alg, alg_from_name, alg_name, digest_size, to_hash_alg
from hwtrust.wire.codec import Reader

MAX_BANKS: Final = 16
MAX_BITMAP: Final = 4
DEFAULT_BITMAP: Final = 3
ALL_PCRS: Final = tuple(range(24))
KEPT: Final = 128
"""How many selections are kept that were read, and as many that were parsed."""
LONGEST_KEPT: Final = 200
"""Characters; as much as a message's field for a selection holds."""

_BANK: Final = Struct(">HB")
"""The hash of a bank, and the size of its bitmap."""

Bank = tuple[Alg, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class PcrSelection:
    """TPML_PCR_SELECTION: the banks in signed order, each with its PCR numbers.

    Raises:
        MalformedError: a bank occurs twice; PCR numbers are not ascending, or
            do not fit into the bitmap.
        UnsupportedError: a bank's algorithm is no hash.
    """

    banks: tuple[Bank, ...]
    widths: tuple[int, ...] = field(default=(), compare=False, repr=False, kw_only=True)
    """Bytes in the bitmap of each bank; says nothing about what is selected."""
    is_empty: bool = field(default=False, init=False, compare=False, repr=False)
    """Whether no PCR at all is selected."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_empty", not any(numbers for _, numbers in self.banks))
        if not self.widths:
            widths = tuple(_width(numbers) for _, numbers in self.banks)
            object.__setattr__(self, "widths", widths)
        if len(self.widths) != len(self.banks):
            raise MalformedError("a PCR selection needs one bitmap width for each bank")
        seen: set[Alg] = set()
        for (alg, numbers), width in zip(self.banks, self.widths, strict=True):
            digest_size(alg)
            if alg in seen:
                raise MalformedError(
                    f"the PCR selection names the bank {alg_name(alg)} twice", bank=alg_name(alg)
                )
            seen.add(alg)
            if not 1 <= width <= MAX_BITMAP:
                raise MalformedError(
                    f"a PCR bitmap has {width} bytes, 1 to {MAX_BITMAP} are possible"
                )
            if list(numbers) != sorted(set(numbers)):
                raise MalformedError(
                    f"the PCRs of the bank {alg_name(alg)} are not ascending and unique",
                    bank=alg_name(alg),
                )
            if numbers and not (numbers[0] >= 0 and numbers[-1] < 8 * width):
                raise MalformedError(
                    f"the bank {alg_name(alg)} has no PCR {numbers[-1]}", bank=alg_name(alg)
                )

    @classmethod
    def decode(cls, reader: Reader) -> PcrSelection:
        """Read a TPML_PCR_SELECTION; what follows it stays in `reader`.

        Raises:
            MalformedError: cut short, too many banks, a bank twice, a bitmap of
                no or of more than 4 bytes.
            UnsupportedError: a bank that is no known hash algorithm.
        """
        start = reader.offset
        count = reader.u32()
        if count > MAX_BANKS:
            raise MalformedError(f"a PCR selection has {count} banks, {MAX_BANKS} at most")
        for _ in range(count):
            _, size = reader.unpack(_BANK)
            reader.take(size)
        return _decoded(reader.since(start))

    @classmethod
    def parse(cls, text: str) -> PcrSelection:
        """Read the spelling of tpm2-tools: `sha256:0,1,7+sha1:all`, in any order.

        Raises:
            MalformedError: another spelling, a bank or PCR named twice.
            UnsupportedError: a bank that is no known hash algorithm.
        """
        return _parsed(text) if len(text) <= LONGEST_KEPT else _parse(text)

    def encode(self) -> bytes:
        """The TPML_PCR_SELECTION."""
        parts = [codec.u32(len(self.banks))]
        for (alg, numbers), width in zip(self.banks, self.widths, strict=True):
            parts += [codec.u16(alg), codec.u8(width), bitmap_of(numbers, width)]
        return b"".join(parts)

    def __str__(self) -> str:
        return "+".join(f"{alg_name(alg)}:{_spell_numbers(numbers)}" for alg, numbers in self.banks)


@lru_cache(maxsize=KEPT)
def _decoded(raw: bytes) -> PcrSelection:
    """The selection that `raw` is, whose lengths are known to be right."""
    reader = Reader(raw, "TPML_PCR_SELECTION")
    banks: list[Bank] = []
    widths: list[int] = []
    for _ in range(reader.u32()):
        alg = to_hash_alg(reader.u16())
        bitmap = reader.take(reader.u8())
        banks.append((alg, numbers_of(bitmap)))
        widths.append(len(bitmap))
    return PcrSelection(tuple(banks), widths=tuple(widths))


def _parse(text: str) -> PcrSelection:
    banks: list[Bank] = []
    for part in text.split("+"):
        name, colon, numbers = part.partition(":")
        if not colon:
            raise MalformedError(
                f"{text!r} is no PCR selection; write it like sha256:0,1,7+sha1:all"
            )
        banks.append((alg_from_name(name.strip()), _parse_numbers(numbers.strip())))
    return PcrSelection(tuple(banks))


@lru_cache(maxsize=KEPT)
def _parsed(text: str) -> PcrSelection:
    """As if it had been read: what is asked for and what is quoted are one object then."""
    return _decoded(_parse(text).encode())


def numbers_of(bitmap: bytes) -> tuple[int, ...]:
    """The PCR numbers whose bits are set; bit 0 of byte 0 is PCR 0."""
    bits = int.from_bytes(bitmap, "little")
    return tuple(number for number in range(8 * len(bitmap)) if bits >> number & 1)


def bitmap_of(numbers: tuple[int, ...], width: int) -> bytes:
    """The bitmap of `width` bytes in which the bits of `numbers` are set."""
    return sum(1 << number for number in numbers).to_bytes(width, "little")


def _width(numbers: tuple[int, ...]) -> int:
    return MAX_BITMAP if numbers and max(numbers) >= 8 * DEFAULT_BITMAP else DEFAULT_BITMAP


def _parse_numbers(text: str) -> tuple[int, ...]:
    if text == "all":
        return ALL_PCRS
    if text == "none":
        return ()
    return tuple(sorted(parse_number(item.strip()) for item in text.split(",")))


def parse_number(text: str) -> int:
    """The PCR number that `text` spells in decimal.

    Raises:
        MalformedError: it spells none.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= len("31")):
        raise MalformedError(f"{text!r} is no PCR number")
    return int(text)


def _spell_numbers(numbers: tuple[int, ...]) -> str:
    if not numbers:
        return "none"
    if numbers == ALL_PCRS:
        return "all"
    return ",".join(str(number) for number in numbers)
