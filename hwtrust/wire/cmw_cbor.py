"""The few CBOR items of a Conceptual Message Wrapper, RFC 8949: read strictly, written.

Rules:
1. Only unsigned integers, byte and text strings, arrays and maps; no tags, no
   negative or floating numbers, no simple values.
2. Lengths are definite, and lengths and integers as short as they can be.
3. A count buys no memory: it is compared with what is taken first, and so is depth.
"""

from __future__ import annotations

from typing import Final

from hwtrust.errors import MalformedError
from hwtrust.errors.cmw import CmwError, CmwLimitError
from hwtrust.wire.codec import Reader

UNSIGNED: Final = 0
BYTES: Final = 2
TEXT: Final = 3
ARRAY: Final = 4
MAP: Final = 5

_DIRECT: Final = 24
"""Arguments below this stand in the first byte; from it on it says how many bytes follow."""
_SIZES: Final = {24: 1, 25: 2, 26: 4, 27: 8}


class Pairs(list[tuple[object, object]]):
    """The members of a map, before it is known that no label comes twice."""


def decode(data: bytes, *, most: int, depth: int) -> object:
    """The one item that is all of `data`; arrays are lists, maps are `Pairs`.

    `most` is how many members an array or a map has at most, `depth` how many of
    them are within one another.

    Raises:
        CmwError: something else, or more.
    """
    reader = Reader(data, "CMW")
    try:
        found = _item(reader, most, depth)
        reader.end()
    except MalformedError as error:
        raise CmwError(error.message) from None
    return found


def encode(item: object) -> bytes:
    """The item in CBOR; a map keeps its order.

    Raises:
        CmwError: it is of a kind that no wrapper has.
    """
    match item:
        case bool():
            pass
        case int() if item >= 0:
            return _head(UNSIGNED, item)
        case bytes():
            return _head(BYTES, len(item)) + item
        case str():
            text = item.encode()
            return _head(TEXT, len(text)) + text
        case Pairs():
            members = [encode(key) + encode(value) for key, value in item]
            return _head(MAP, len(item)) + b"".join(members)
        case list():
            return _head(ARRAY, len(item)) + b"".join(map(encode, item))
    raise CmwError(f"a value of the type {type(item).__name__} stands in no CMW")


def _item(reader: Reader, most: int, depth: int) -> object:
    first = reader.u8()
    kind, argument = first >> 5, first & 0x1F
    if argument >= _DIRECT:
        argument = _long(reader, argument)
    if kind == UNSIGNED:
        return argument
    if kind == BYTES:
        return reader.take(argument)
    if kind == TEXT:
        try:
            return reader.take(argument).decode()
        except UnicodeDecodeError:
            raise CmwError("a text in a wrapper is not UTF-8") from None
    if kind not in {ARRAY, MAP}:
        raise CmwError(f"a CBOR item of major type {kind} stands in no CMW that hwtrust takes")
    if not depth or argument > most:
        raise CmwLimitError(f"a wrapper has too many levels, or more than {most} parts")
    if kind == ARRAY:
        return [_item(reader, most, depth - 1) for _ in range(argument)]
    return Pairs((_item(reader, most, 0), _item(reader, most, depth - 1)) for _ in range(argument))


def _long(reader: Reader, size: int) -> int:
    if size not in _SIZES:
        raise CmwError("a CBOR item has an indefinite length, or a reserved one")
    count = _SIZES[size]
    found = int.from_bytes(reader.take(count), "big")
    least = _DIRECT if count == 1 else 1 << (4 * count)
    if found < least:
        raise CmwError("a CBOR length or integer is longer than it has to be")
    return found


def _head(kind: int, argument: int) -> bytes:
    if argument < _DIRECT:
        return bytes([kind << 5 | argument])
    for size, count in _SIZES.items():
        if argument < 1 << (8 * count):
            return bytes([kind << 5 | size]) + argument.to_bytes(count, "big")
    raise CmwError("a number is too large for CBOR")
