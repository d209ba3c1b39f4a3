"""What UEFI firmware puts into the data of its events: UEFI 2.10, PFP §10.2.

For people, and for whoever compares the data with its digest: nothing here is believed.
Numbers are little endian; whatever is cut short is a `MalformedError`; no size buys
memory before it was compared with what is there.
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, Self
from uuid import UUID

import msgspec

from hwtrust.errors.evidence import MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable

GLOBAL_VARIABLE: Final = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
"""EFI_GLOBAL_VARIABLE: PK, KEK, SecureBoot, BootOrder."""
SECURITY_DATABASE: Final = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
"""EFI_IMAGE_SECURITY_DATABASE: db, dbx."""
SHIM_LOCK: Final = UUID("605dab50-e046-4300-abb6-3dd810dd8b23")
CERT_X509: Final = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
CERT_SHA256: Final = UUID("c1c41626-504c-4092-aca9-41f936934328")

MAX_SIGNATURES: Final = 1 << 14
MAX_NODES: Final = 64
MAX_PARTITIONS: Final = 1024

_VARIABLE: Final = Struct("<16sQQ")
_LIST: Final = Struct("<16sIII")
_IMAGE: Final = Struct("<QQQQ")
_NODE: Final = Struct("<BBH")
_BLOB: Final = Struct("<QQ")
_GPT: Final = Struct("<8sIIIIQQQQ16sQIII")
_COUNT: Final = Struct("<Q")
_PARTITION: Final = Struct("<16s16sQQQ72s")
_TAG: Final = Struct("<II")
_HARD_DRIVE: Final = Struct("<IQQ16s")
_OWNER: Final = 16
_A_NODE: Final = "a node of a device path"


def _unpack(form: Struct, data: bytes, at: int, what: str) -> tuple[Any, ...]:
    try:
        return form.unpack_from(data, at)
    except struct.error:
        raise MalformedError(f"{what} is cut short", offset=at) from None


def _slice(data: bytes, at: int, size: int, what: str) -> bytes:
    if size > len(data) - at:
        raise MalformedError(f"{what} is cut short", offset=at)
    return data[at : at + size]


def _guid(raw: bytes) -> UUID:
    return UUID(bytes_le=raw)


def printable(text: str, *, most: int = 200) -> str:
    """`text` in one line without control characters, cut to `most` characters."""
    if len(text) <= most and text.isprintable():
        return text
    text = text[: most + 1]
    line = "".join(char if char.isprintable() else "?" for char in text)
    return line if len(line) <= most else line[:most] + "…"


def utf16(raw: bytes) -> str:
    """UTF-16 up to its NUL; what is no UTF-16 is replaced."""
    return raw.decode("utf-16-le", "replace").partition("\0")[0]


class Variable(msgspec.Struct, frozen=True, gc=False):
    """UEFI_VARIABLE_DATA, PFP §10.2.6."""

    guid: UUID
    name: str
    data: bytes

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read one; what follows it, as some shims leave bytes there, is no part of it.

        Raises:
            MalformedError: cut short.
        """
        guid, characters, size = _unpack(_VARIABLE, raw, 0, "UEFI_VARIABLE_DATA")
        name = _slice(raw, _VARIABLE.size, 2 * characters, "UEFI_VARIABLE_DATA")
        at = _VARIABLE.size + 2 * characters
        data = _slice(raw, at, size, "UEFI_VARIABLE_DATA")
        try:
            return cls(_guid(guid), name.decode("utf-16-le"), data)
        except UnicodeDecodeError:
            raise MalformedError("the name of a UEFI variable is not UTF-16") from None

    def encode(self) -> bytes:
        """The UEFI_VARIABLE_DATA."""
        name = self.name.encode("utf-16-le")
        head = _VARIABLE.pack(self.guid.bytes_le, len(name) // 2, len(self.data))
        return head + name + self.data


class Signature(msgspec.Struct, frozen=True, gc=False):
    """EFI_SIGNATURE_DATA and the type of the list that it is in, UEFI 2.10 §32.4.1."""

    type: UUID
    owner: UUID
    data: bytes


def read_signature_lists(raw: bytes) -> tuple[Signature, ...]:
    """All of EFI_SIGNATURE_LIST ..., the content of PK, KEK, db and dbx.

    Raises:
        MalformedError: cut short, or a size that does not divide into signatures.
    """
    found: list[Signature] = []
    at = 0
    while at < len(raw):
        type_, length, header, size = _unpack(_LIST, raw, at, "EFI_SIGNATURE_LIST")
        body = length - _LIST.size - header
        if body < 0 or size <= _OWNER or body % size or length > len(raw) - at:
            raise MalformedError("EFI_SIGNATURE_LIST has sizes that do not fit", offset=at)
        if len(found) + body // size > MAX_SIGNATURES:
            raise MalformedError(f"EFI_SIGNATURE_LIST has more than {MAX_SIGNATURES} signatures")
        kind = _guid(type_)
        start, at = at + _LIST.size + header, at + length
        found += [
            Signature(kind, _guid(raw[i : i + _OWNER]), raw[i + _OWNER : i + size])
            for i in range(start, at, size)
        ]
    return tuple(found)


def signature_list(type_: UUID, owner: UUID, *datas: bytes) -> bytes:
    """One EFI_SIGNATURE_LIST of data of equal length."""
    size = _OWNER + len(datas[0])
    head = _LIST.pack(type_.bytes_le, _LIST.size + size * len(datas), 0, size)
    return head + b"".join(owner.bytes_le + data for data in datas)


class ImageLoad(msgspec.Struct, frozen=True, gc=False):
    """UEFI_IMAGE_LOAD_EVENT, PFP §10.2.3."""

    location: int
    length: int
    device_path: bytes

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """Read one.

        Raises:
            MalformedError: cut short.
        """
        location, length, _, size = _unpack(_IMAGE, raw, 0, "UEFI_IMAGE_LOAD_EVENT")
        return cls(location, length, _slice(raw, _IMAGE.size, size, "UEFI_IMAGE_LOAD_EVENT"))

    def encode(self) -> bytes:
        """The UEFI_IMAGE_LOAD_EVENT."""
        return _IMAGE.pack(self.location, self.length, 0, len(self.device_path)) + self.device_path


def device_path_text(raw: bytes) -> str:
    """A device path as people write it, UEFI 2.10 §10.6; unknown nodes in hexadecimal.

    Raises:
        MalformedError: cut short, or of too many nodes.
    """
    parts: list[str] = []
    at = 0
    while at < len(raw):
        type_, subtype, length = _unpack(_NODE, raw, at, "a device path")
        if length < _NODE.size or length > len(raw) - at:
            raise MalformedError("a device path has a node of impossible size", offset=at)
        if type_ == 0x7F:  # noqa: PLR2004  the end, of this path or of all
            break
        if len(parts) == MAX_NODES:
            raise MalformedError(f"a device path has more than {MAX_NODES} nodes", offset=at)
        parts.append(_node_text(type_, subtype, raw[at + _NODE.size : at + length]))
        at += length
    return "/".join(parts)


_NODES: Final[dict[tuple[int, int], tuple[Struct, str]]] = {
    (1, 1): (Struct("<BB"), "Pci({1:#x},{0:#x})"),
    (1, 3): (Struct("<IQQ"), "MemoryMapped({0:#x},{1:#x},{2:#x})"),
    (1, 5): (Struct("<I"), "Ctrl({0:#x})"),
    (3, 2): (Struct("<HH"), "Scsi({0:#x},{1:#x})"),
    (3, 5): (Struct("<BB"), "USB({0:#x},{1:#x})"),
    (3, 18): (Struct("<HHH"), "Sata({0:#x},{1:#x},{2:#x})"),
    (3, 23): (Struct("<IQ"), "NVMe({0:#x},{1:#x})"),
    (3, 31): (Struct("<II"), "Dns({0:#x},{1:#x})"),
}
_ACPI_PCI_ROOT: Final = 0x0A0341D0
_GUID_NODES: Final = {
    (1, 4): "VenHw",
    (3, 10): "VenMsg",
    (4, 3): "VenMedia",
    (4, 6): "FvFile",
    (4, 7): "Fv",
}


def _node_text(type_: int, subtype: int, body: bytes) -> str:
    key = (type_, subtype)
    if key in _SPELLED:
        return _SPELLED[key](body)
    if key in _GUID_NODES:
        return f"{_GUID_NODES[key]}({_guid(_slice(body, 0, 16, _A_NODE))})"
    if key in _NODES:
        form, text = _NODES[key]
        return text.format(*_unpack(form, body, 0, _A_NODE))
    return f"Path({type_},{subtype},{body[:32].hex()})"


def _acpi(body: bytes) -> str:
    hid, uid = _unpack(_TAG, body, 0, _A_NODE)
    return f"PciRoot({uid:#x})" if hid == _ACPI_PCI_ROOT else f"Acpi({hid:#010x},{uid:#x})"


def _hard_drive(body: bytes) -> str:
    number, start, size, signature = _unpack(_HARD_DRIVE, body, 0, _A_NODE)
    return f"HD({number},{_guid(signature)},{start:#x},{size:#x})"


def _offset(body: bytes) -> str:
    # Older firmware leaves out the four reserved bytes.
    start, end = _unpack(_BLOB, body[-_BLOB.size :], 0, _A_NODE)
    return f"Offset({start:#x},{end:#x})"


_SPELLED: Final[dict[tuple[int, int], Callable[[bytes], str]]] = {
    (2, 1): _acpi,
    (3, 11): lambda body: f"MAC({body[:6].hex()})",
    (3, 24): lambda body: f"Uri({printable(body.decode('ascii', 'replace'))})",
    (4, 1): _hard_drive,
    (4, 4): lambda body: printable(utf16(body)),
    (4, 8): _offset,
}


class Partition(msgspec.Struct, frozen=True, gc=False):
    """An entry of a GUID partition table."""

    type: UUID
    id: UUID
    first: int
    last: int
    name: str


def read_gpt(raw: bytes) -> tuple[UUID, tuple[Partition, ...]]:
    """UEFI_GPT_DATA, PFP §10.2.5: the disk and its partitions.

    Raises:
        MalformedError: no partition table, cut short, or of too many partitions.
    """
    header = _unpack(_GPT, raw, 0, "UEFI_GPT_DATA")
    (count,) = _unpack(_COUNT, raw, _GPT.size, "UEFI_GPT_DATA")
    if header[0] != b"EFI PART" or count > MAX_PARTITIONS:
        raise MalformedError(f"UEFI_GPT_DATA is no partition table of up to {MAX_PARTITIONS}")
    size, at = header[12], _GPT.size + _COUNT.size
    if size < _PARTITION.size or count * size > len(raw) - at:
        raise MalformedError("UEFI_GPT_DATA is cut short", offset=at)
    rows = (_PARTITION.unpack_from(raw, at + size * i) for i in range(count))
    return _guid(header[9]), tuple(
        Partition(_guid(type_), _guid(id_), first, last, utf16(name))
        for type_, id_, first, last, _, name in rows
    )


def read_blob(raw: bytes) -> tuple[str, int, int]:
    """UEFI_PLATFORM_FIRMWARE_BLOB or …BLOB2, PFP §10.2.4: description, base, length.

    Raises:
        MalformedError: neither of them.
    """
    if len(raw) == _BLOB.size:
        base, length = _BLOB.unpack(raw)
        return "", base, length
    size = _slice(raw, 0, 1, "UEFI_PLATFORM_FIRMWARE_BLOB2")[0]
    description = _slice(raw, 1, size, "UEFI_PLATFORM_FIRMWARE_BLOB2")
    base, length = _unpack(_BLOB, raw, 1 + size, "UEFI_PLATFORM_FIRMWARE_BLOB2")
    return printable(description.decode("latin-1").rstrip("\0")), base, length


def read_tag(raw: bytes) -> tuple[int, bytes]:
    """TCG_PCClientTaggedEvent, PFP §10.4.2.1: its number and its data.

    Raises:
        MalformedError: cut short.
    """
    number, size = _unpack(_TAG, raw, 0, "a tagged event")
    return number, _slice(raw, _TAG.size, size, "a tagged event")
