"""One entry of an IMA log: what its template data says, field by field.

The template data is all that the kernel hashes: an entry's other parts (its PCR,
template hash and template name) are bound by nothing. Linux
Documentation/security/IMA-templates.rst. Rules:

1. `data` is what is hashed, as received; no field is written anew to be checked.
2. The old template `ima` is hashed as a digest of 20 bytes and a name that is
   filled up with zeros; all others as fields behind their lengths.
3. Fields have to fill the data exactly. A digest has the size of its algorithm,
   where that is known; names of algorithms that are not known are kept as they are.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from hwtrust.errors import MalformedError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

Order = Literal["little", "big"]

TEMPLATES: Final[dict[str, tuple[str, ...]]] = {
    "ima": ("d", "n"),
    "ima-ng": ("d-ng", "n-ng"),
    "ima-ngv2": ("d-ngv2", "n-ng"),
    "ima-sig": ("d-ng", "n-ng", "sig"),
    "ima-sigv2": ("d-ngv2", "n-ng", "sig"),
    "ima-buf": ("d-ng", "n-ng", "buf"),
    "ima-modsig": ("d-ng", "n-ng", "sig", "d-modsig", "modsig"),
    "evm-sig": (
        *("d-ng", "n-ng", "evmsig", "xattrnames", "xattrlengths", "xattrvalues"),
        *("iuid", "igid", "imode"),
    ),
}
"""The templates that the kernel has a name for, and their fields."""

FIELDS: Final = frozenset(field for fields in TEMPLATES.values() for field in fields)
OLD: Final = "ima"
OLD_NAME: Final = 256
"""IMA_EVENT_NAME_LEN_MAX and a zero: what a name is filled up to in the template `ima`."""
BOOT_AGGREGATE: Final = "boot_aggregate"

LONGEST_TEMPLATE: Final = 255
MAX_DATA: Final = 1 << 20
"""Bytes of template data in one entry; the kernel hashes buffers that are longer."""

DIGEST_SIZES: Final = {
    "md5": 16,
    "sha1": 20,
    "rmd160": 20,
    "sha224": 28,
    "sha256": 32,
    "sha384": 48,
    "sha512": 64,
    "sm3": 32,
    "sm3_256": 32,
    "sm3-256": 32,
    "sha3-256": 32,
    "sha3-384": 48,
    "sha3-512": 64,
    "wp512": 64,
}
"""Bytes in a digest, by the names that the kernel writes."""

_NUMBERS: Final = {"iuid": 4, "igid": 4, "imode": 2}
_ALGORITHM: Final = re.compile(rb"(?:(ima|verity):)?([a-z0-9][a-z0-9_-]{0,31}):\0", re.DOTALL)
_MOST_DIGITS: Final = 10
_HASHES: Final = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}


class FileDigest(msgspec.Struct, frozen=True, gc=False):
    """The digest of what was measured; `kind` is `verity` for that of fs-verity."""

    algorithm: str
    digest: bytes
    kind: str = "ima"

    def __str__(self) -> str:
        prefix = "" if self.kind == "ima" else f"{self.kind}:"
        return f"{prefix}{self.algorithm}:{self.digest.hex()}"


class ImaEntry(msgspec.Struct, frozen=True, gc=False):
    """One measurement. Only `data` is bound by the PCR, once the log was replayed.

    Attributes:
        pcr: the register that it says it was added to.
        template_hash: of `data`, as it stands in the log; zeros for a violation.
        template: the template's name, or its format such as `d-ng|sig`.
        data: what is hashed.
        fields: by their names, in their order.
    """

    pcr: int
    template_hash: bytes
    template: str
    data: bytes
    fields: dict[str, bytes]

    @property
    def violation(self) -> bool:
        """Whether the kernel could not say what was read: the template hash is zeros."""
        return not any(self.template_hash)

    @property
    def hash_fits(self) -> bool | None:
        """Whether the template hash is that of the data; None for a violation."""
        if self.violation:
            return None
        name = _HASHES[len(self.template_hash)]
        return hashlib.new(name, self.data, usedforsecurity=False).digest() == self.template_hash

    @property
    def name(self) -> bytes:
        """The path of the file, or the name of the event, without its closing zero."""
        name = self.fields.get("n-ng", self.fields.get("n", b""))
        return name.removesuffix(b"\0")

    @property
    def path(self) -> str:
        """The name as text; bytes that are not of UTF-8 are escaped."""
        return self.name.decode("utf-8", "backslashreplace")

    @property
    def digest(self) -> FileDigest | None:
        """The digest of the file or buffer; None where the template has none."""
        for field in ("d-ng", "d-ngv2"):
            if field in self.fields:
                return read_digest(self.fields[field])
        old = self.fields.get("d")
        return (
            FileDigest("sha1", old)
            if old is not None and len(old) == DIGEST_SIZES["sha1"]
            else None
        )

    @property
    def signature(self) -> bytes:
        """The file's signature, security.ima; empty where there is none."""
        return self.fields.get("sig", b"")

    @property
    def buffer(self) -> bytes | None:
        """What was measured, where that is no file."""
        return self.fields.get("buf")

    def facts(self) -> dict[str, str | int | bool | list[str]]:
        """The entry for people and programs."""
        facts: dict[str, str | int | bool | list[str]] = {
            "pcr": self.pcr,
            "template": self.template,
            "template_hash": self.template_hash.hex(),
            "violation": self.violation,
        }
        for field, value in self.fields.items():
            if field in {"d-ng", "d-ngv2"}:
                facts[field] = str(read_digest(value))
            elif field in {"n", "n-ng", "xattrnames"}:
                facts[field] = value.removesuffix(b"\0").decode("utf-8", "backslashreplace")
            else:
                facts[field] = value.hex()
        return facts


def fields_of(template: str) -> tuple[str, ...]:
    """The fields of a template, by its name or its format.

    Raises:
        UnsupportedError: neither is known.
    """
    known = TEMPLATES.get(template)
    if known is not None:
        return known
    fields = tuple(template.split("|"))
    if len(template) <= LONGEST_TEMPLATE and FIELDS.issuperset(fields):
        if len(set(fields)) == len(fields):
            return fields
        raise MalformedError("the format of an IMA template names a field twice")
    raise UnsupportedError(f"{template[:40]!r} is no template of IMA")


def read_digest(value: bytes) -> FileDigest:
    """The field `d-ng` or `d-ngv2`: the algorithm's name, a zero, the digest.

    Raises:
        MalformedError: it is not of that form, or of another size than the algorithm's.
    """
    match = _ALGORITHM.match(value)
    if match is None:
        raise MalformedError("a digest in an IMA entry does not begin with its algorithm")
    kind, algorithm = (part.decode() for part in match.groups(b"ima"))
    digest = value[match.end() :]
    size = DIGEST_SIZES.get(algorithm, len(digest))
    if len(digest) != size or not digest:
        raise MalformedError(f"an IMA entry has a digest of {len(digest)} bytes for {algorithm}")
    return FileDigest(algorithm, digest, kind)


def read_fields(template: str, data: bytes, order: Order = "little") -> dict[str, bytes]:
    """The fields of template data, all of it.

    Raises:
        MalformedError: they do not fill `data`, or one is not of its form.
        UnsupportedError: the template is not known.
    """
    names = fields_of(template)
    values = list(_old(data) if template == OLD else _sized(data, order, len(names)))
    if len(values) != len(names):
        raise MalformedError(f"an IMA entry has another number of fields than {template} has")
    fields = dict(zip(names, values, strict=True))
    _check(template, fields)
    return fields


def _check(template: str, fields: dict[str, bytes]) -> None:
    for field, value in fields.items():
        if field in {"d-ng", "d-ngv2"}:
            read_digest(value)
        elif field == "n-ng" and (value[-1:] != b"\0" or 0 in value[:-1]):
            raise MalformedError("a name in an IMA entry does not end with its only zero")
        elif field == "d" and len(value) not in {16, 20}:
            raise MalformedError("the digest of an IMA entry is neither MD5 nor SHA-1")
        elif field == "n" and (len(value) > OLD_NAME or 0 in value.removesuffix(b"\0")):
            raise MalformedError("a name in an IMA entry is too long or holds a zero")
        elif field in _NUMBERS and len(value) != _NUMBERS[field]:
            raise MalformedError(f"{field} in an IMA entry of {template} has {len(value)} bytes")


def _sized(data: bytes, order: Order, most: int) -> Iterator[bytes]:
    at = 0
    for _ in range(most):
        start = at + 4
        at = start + int.from_bytes(data[at:start], order)
        if start > len(data) or at > len(data):
            raise MalformedError("a field of an IMA entry is longer than the entry")
        yield data[start:at]
    if at != len(data):
        raise MalformedError("the fields of an IMA entry do not fill it")


def _old(data: bytes) -> Iterator[bytes]:
    yield data[:20]
    yield data[20:].rstrip(b"\0")


def old_data(digest: bytes, name: bytes) -> bytes:
    """What is hashed in the template `ima`.

    Raises:
        MalformedError: the name is longer than the kernel makes it.
    """
    if len(name) >= OLD_NAME or 0 in name:
        raise MalformedError("a name in an IMA entry is too long or holds a zero")
    return digest + name.ljust(OLD_NAME, b"\0")


def template_data(fields: list[bytes]) -> bytes:
    """Fields behind their lengths, little-endian: what all other templates hash."""
    return b"".join(len(field).to_bytes(4, "little") + field for field in fields)


def digest_field(digest: FileDigest) -> bytes:
    """The field `d-ng`; for `verity`, `d-ngv2`."""
    prefix = "" if digest.kind == "ima" else f"{digest.kind}:"
    return f"{prefix}{digest.algorithm}:\0".encode() + digest.digest


def read_text_field(field: str, text: bytes) -> bytes:
    """A field from the ASCII form of a log.

    Raises:
        MalformedError: it is not of the field's form.
    """
    try:
        if field in {"d-ng", "d-ngv2"}:
            label, _, digest = text.rpartition(b":")
            return label + b":\0" + _unhex(digest)
        if field in {"n", "n-ng"}:
            return text + b"\0"
        if field == "xattrnames":
            return text + b"\0" if text else b""
        if field in _NUMBERS:
            # From 0 to 65535 or 4294967295, in the kernel's decimal form.
            if not text.isdigit() or len(text) > _MOST_DIGITS:
                raise MalformedError(f"{field} in an IMA entry is no number")
            return int(text).to_bytes(_NUMBERS[field], "little")
        if field == "d-modsig" and text:
            label, _, digest = text.rpartition(b":")
            return label + b":\0" + _unhex(digest)
        return _unhex(text)
    except (ValueError, OverflowError):
        raise MalformedError(f"{field} in an IMA entry is not of its form") from None


_HEX: Final = re.compile(rb"(?:[0-9a-fA-F]{2})*")


def _unhex(text: bytes) -> bytes:
    if not _HEX.fullmatch(text):
        raise MalformedError("an IMA entry has other characters where hexadecimal ones belong")
    return bytes.fromhex(text.decode("ascii"))
