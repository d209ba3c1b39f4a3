"""Cut DER out of padding, and bring certificates from the field into its canonical form.

TPM vendors have shipped certificates that are BER but not quite DER, in chips
that nobody will recall. The parser that hwtrust uses takes strict DER only. So
a certificate that it refuses is tried once more in canonical form; signatures
are still checked over the bytes as received.

Rules:
1. This is no parser of certificates: it sees tags and lengths, and the serial
   number, and nothing is decided by what it reads.
2. It makes four changes, each of which leaves the meaning as it was:
   a SET OF is sorted (Nuvoton); a `critical FALSE` or `cA FALSE` that is
   written though it is the default is left out (Intel); the NULL parameters of
   an ECDSA signature algorithm are left out (Intel); the same inside
   subjectAltName and basicConstraints, which are DER within DER.
3. Everything else is an error: indefinite or non-minimal lengths, long tags,
   deep nesting, trailing bytes that are no padding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hwtrust.errors import MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BOOLEAN_FALSE: Final = bytes.fromhex("010100")
_NULL: Final = bytes.fromhex("0500")
_INTEGER: Final = 0x02
_OCTET_STRING: Final = 0x04
_OID: Final = 0x06
_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_VERSION: Final = 0xA0
_CONSTRUCTED: Final = 0x20
_LONG_TAG: Final = 0x1F
_LONG_LENGTH: Final = 0x80
_MAX_LENGTH_BYTES: Final = 3
_MAX_DEPTH: Final = 32

_SUBJECT_ALT_NAME: Final = bytes.fromhex("0603551d11")
_BASIC_CONSTRAINTS: Final = bytes.fromhex("0603551d13")
_ECDSA_WITH_SHA2: Final = frozenset(
    bytes.fromhex("06082a8648ce3d0403") + bytes([number]) for number in (2, 3, 4)
)
_PADDINGS: Final = (b"\xff", b"\x00", b"\r\n")


def split(data: bytes) -> list[bytes]:
    """The SEQUENCEs that stand one behind the other in `data`, without padding behind them.

    An NV index is often larger than its certificate, and files end in newlines:
    the rest may be all 0xFF, all zero, or line ends.

    Raises:
        MalformedError: something else is there.
    """
    found = []
    at = 0
    while at < len(data) and data[at] == _SEQUENCE:
        _, end = _bounds(data, at)
        found.append(data[at:end])
        at = end
    if all(data[at:].strip(byte) for byte in _PADDINGS):
        raise MalformedError("something that is no DER structure is where one should be", offset=at)
    return found


def children(element: bytes) -> list[bytes]:
    """The elements inside one constructed element, which has to be all of `element`.

    Raises:
        MalformedError: it is not constructed, or is cut short, or goes on.
    """
    start, end = _bounds(element, 0)
    if end != len(element) or not element[0] & _CONSTRUCTED:
        raise MalformedError("a DER structure is not where one should be")
    return list(_elements(element[start:end]))


def canonical(element: bytes, *, depth: int = 0) -> bytes:
    """`element` in DER, if it was nearly so.

    Raises:
        MalformedError: it is further from it.
    """
    if depth > _MAX_DEPTH:
        raise MalformedError(f"a DER structure is nested more than {_MAX_DEPTH} deep")
    if _bounds(element, 0)[1] != len(element):
        raise MalformedError("a DER structure goes on where it should end")
    if not element[0] & _CONSTRUCTED:
        return element
    parts = [canonical(part, depth=depth + 1) for part in children(element)]
    if element[0] == _SET:
        parts.sort()
    elif element[0] == _SEQUENCE:
        parts = _repaired(parts, depth)
    return _encode(element[0], b"".join(parts))


def serial(certificate: bytes) -> int:
    """The serial number of a certificate, which may be zero or negative.

    Raises:
        MalformedError: there is none where it should be, or not in DER.
    """
    _, parts, at = _serial_place(certificate)
    start, _ = _bounds(parts[at], 0)
    content = parts[at][start:]
    number = int.from_bytes(content, "big", signed=True)
    if len(content) != ((number + (number < 0)).bit_length() // 8 + 1):
        raise MalformedError("a certificate has a serial number that is not DER")
    return number


def with_serial(certificate: bytes, number: int) -> bytes:
    """The certificate with another serial number, below 128: for a parser, not to be believed.

    Raises:
        MalformedError: there is none where it should be.
    """
    (_, *rest), parts, at = _serial_place(certificate)
    parts[at] = _encode(_INTEGER, bytes([number]))
    return _encode(_SEQUENCE, _encode(_SEQUENCE, b"".join(parts)) + b"".join(rest))


def _serial_place(certificate: bytes) -> tuple[list[bytes], list[bytes], int]:
    """The parts of a certificate, those of its signed part, and which of these is the number."""
    whole = children(certificate)
    parts = children(whole[0]) if whole else []
    # The version stands before it, unless it is the default.
    at = 1 if parts and parts[0][0] == _VERSION else 0
    if len(parts) <= at or parts[at][0] != _INTEGER:
        raise MalformedError("a certificate has no serial number")
    return whole, parts, at


def _repaired(parts: list[bytes], depth: int) -> list[bytes]:
    """The members of a SEQUENCE, if it is one of those that rule 2 names, as they should be."""
    match parts:
        case [oid, parameters] if oid in _ECDSA_WITH_SHA2 and parameters == _NULL:
            return [oid]
        case [oid, *critical, value] if oid[0] == _OID and value[0] == _OCTET_STRING:
            kept = [flag for flag in critical if flag != _BOOLEAN_FALSE]
            return [oid, *kept, _repaired_value(oid, value, depth)]
    return parts


def _repaired_value(oid: bytes, value: bytes, depth: int) -> bytes:
    """The value of an extension: an OCTET STRING that holds DER."""
    if oid not in {_SUBJECT_ALT_NAME, _BASIC_CONSTRAINTS}:
        return value
    start, end = _bounds(value, 0)
    inner = canonical(value[start:end], depth=depth + 1)
    if oid == _BASIC_CONSTRAINTS:
        kept = [part for part in children(inner) if part != _BOOLEAN_FALSE]
        inner = _encode(_SEQUENCE, b"".join(kept))
    return _encode(_OCTET_STRING, inner)


def _elements(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        _, end = _bounds(data, at)
        yield data[at:end]
        at = end


def _bounds(data: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at `at` begins and ends."""
    header = data[at : at + 2]
    if len(header) < len(b"TL") or header[0] & _LONG_TAG == _LONG_TAG:
        raise MalformedError("a DER structure is cut short, or has a long tag", offset=at)
    start, size = at + 2, header[1]
    if size >= _LONG_LENGTH:
        count = size - _LONG_LENGTH
        length = data[start : start + count]
        start, size = start + count, int.from_bytes(length, "big")
        if not 0 < count <= _MAX_LENGTH_BYTES or _encode_length(size) != header[1:] + length:
            raise MalformedError("a DER structure has a length that is not DER", offset=at)
    if start + size > len(data):
        raise MalformedError("a DER structure is cut short", offset=at)
    return start, start + size


def _encode(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + _encode_length(len(content)) + content


def _encode_length(size: int) -> bytes:
    if size < _LONG_LENGTH:
        return bytes([size])
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([_LONG_LENGTH + len(length)]) + length
