"""The entries of a layer's archive: what may be one, and how it is written.

`hwtrust.updates.archive` says what the form is and what the rules are for; here
is one entry at a time, without input or output.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from hwtrust.errors import (
    ArchiveFormError,
    ArchiveKindError,
    ArchiveLimitError,
    ArchiveLinkError,
    ArchiveModeError,
    ArchiveNameError,
    ArchiveOrderError,
)

MAX_ENTRIES: Final = 200_000
MAX_PATH: Final = 2048
"""Bytes of a path in the tree, or of a link's target; the rest of PATH_MAX is the slot's."""
MAX_NAME: Final = 255

BLOCK: Final = 512
FILE, LINK, FOLDER, PAX = b"0", b"2", b"5", b"x"
_FIELD: Final = 100
_SIZES: Final = 8**11
_MODES: Final = 0o777
_MAX_DIGITS: Final = 20
# The longest pax body: path, target and size, each with its length and keyword.
MAX_RECORDS: Final = 2 * (MAX_PATH + 32) + 64
_REFUSED_KINDS: Final = {
    b"1": "a hard link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of the tree: its relative path, and what the archive says of it."""

    path: bytes
    kind: bytes
    mode: int
    size: int = 0
    target: bytes = b""

    @property
    def padding(self) -> int:
        """How many zero bytes follow the content."""
        return -self.size % BLOCK


# --- what an entry may be ---------------------------------------------------------


class Rules:
    """What may be in a layer, entry by entry; a directory first, then what it holds."""

    def __init__(self) -> None:
        self._folders = {b""}
        self._last = b""
        self._count = 0

    def check(self, entry: Entry) -> None:
        """Refuse an entry that may not be there, or not at this place.

        Raises:
            ArchiveError: the class says which rule it breaks.
        """
        self._count += 1
        if self._count > MAX_ENTRIES:
            raise ArchiveLimitError(
                f"the layer has more than {MAX_ENTRIES} entries", limit=MAX_ENTRIES
            )
        _check_name(entry.path)
        check_mode(entry)
        if entry.kind == LINK:
            _check_target(entry)
        if entry.path <= self._last:
            raise ArchiveOrderError(
                f"{_shown(entry.path)} comes twice or out of order", path=_shown(entry.path)
            )
        if entry.path.rpartition(b"/")[0] not in self._folders:
            raise ArchiveOrderError(
                f"{_shown(entry.path)} is in no directory of the archive", path=_shown(entry.path)
            )
        self._last = entry.path
        if entry.kind == FOLDER:
            self._folders.add(entry.path)


def _check_name(path: bytes) -> None:
    names = path.split(b"/")
    if (
        not {b"", b".", b".."}.isdisjoint(names)
        or len(path) > MAX_PATH
        or max(map(len, names)) > MAX_NAME
        or not _is_text(path)
    ):
        raise ArchiveNameError(
            f"{_shown(path)} is absolute, goes up, is too long or is not UTF-8", path=_shown(path)
        )


def check_mode(entry: Entry) -> None:
    """Refuse setuid, setgid, sticky and what else is no permission.

    Raises:
        ArchiveModeError: the mode is more than permissions.
    """
    if entry.mode & ~_MODES or (entry.kind == LINK and entry.mode != _MODES):
        raise ArchiveModeError(
            f"{_shown(entry.path)} has mode {entry.mode:04o}", path=_shown(entry.path)
        )


def _check_target(entry: Entry) -> None:
    # Upwards only at the start, where the link's own directory, which is no link, is known:
    # behind a name, `..` means the parent of whatever that name leads to.
    names = [name for name in entry.target.split(b"/") if name not in {b"", b"."}]
    up = next((at for at, name in enumerate(names) if name != b".."), len(names))
    if (
        not entry.target
        or entry.target.startswith(b"/")
        or up > entry.path.count(b"/")
        or b".." in names[up:]
        or len(entry.target) > MAX_PATH
        or not _is_text(entry.target)
    ):
        raise ArchiveLinkError(
            f"{_shown(entry.path)} points out of the layer, to {_shown(entry.target)}",
            path=_shown(entry.path),
        )


def _is_text(name: bytes) -> bool:
    try:
        return "\0" not in name.decode()
    except UnicodeDecodeError:
        return False


def _shown(path: bytes) -> str:
    # For messages: nothing in a name reaches a terminal but as text.
    return ascii(os.fsdecode(path))[1:-1]


# --- the form of an entry ---------------------------------------------------------


def encode(entry: Entry) -> bytes:
    """The headers of `entry`, POSIX.1-2017, pax, "pax Interchange Format"."""
    path = entry.path + b"/" * (entry.kind == FOLDER)
    size = entry.size if entry.size < _SIZES else 0
    records = b""
    for keyword, value in ((b"path", path), (b"linkpath", entry.target)):
        if not value.isascii() or len(value) > _FIELD:
            records += _record(keyword, value)
    if entry.size >= _SIZES:
        records += _record(b"size", b"%d" % entry.size)
    header = _header(path, entry.kind, entry.mode, size, entry.target)
    if not records:
        return header
    extended = _header(b"././@PaxHeader", PAX, 0, len(records), b"")
    return extended + records + bytes(-len(records) % BLOCK) + header


def _record(keyword: bytes, value: bytes) -> bytes:
    # The length counts its own digits.
    length = rest = len(keyword) + len(value) + 3
    while length != rest + len(str(length)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, keyword, value)


def _header(path: bytes, kind: bytes, mode: int, size: int, target: bytes) -> bytes:
    head = _field(path) + b"%07o\0" % mode + b"%07o\0" % 0 + b"%07o\0" % 0
    head += b"%011o\0" % size + b"%011o\0" % 0
    tail = kind + _field(target) + b"ustar\x0000"
    tail += bytes(BLOCK - len(head) - 8 - len(tail))
    # The sum is taken with spaces in the place of the sum.
    return head + b"%06o\0 " % (sum(head) + sum(tail) + 8 * ord(" ")) + tail


def _field(text: bytes) -> bytes:
    plain = text.decode(errors="replace").encode("ascii", "replace")
    return plain[:_FIELD].ljust(_FIELD, b"\0")


def decode(header: bytes, records: dict[bytes, bytes]) -> Entry:
    """What the headers of an entry say; what else is in them is for the caller to compare.

    Raises:
        ArchiveKindError: it is a hard link, a device or a FIFO.
        ArchiveFormError: it is of another unknown type, or holds no numbers.
    """
    kind = kind_of(header)
    if kind in _REFUSED_KINDS:
        raise ArchiveKindError(f"the archive holds {_REFUSED_KINDS[kind]}")
    if kind not in {FILE, LINK, FOLDER}:
        raise ArchiveFormError(f"the archive holds an entry of type {_shown(kind)}")
    path = records.get(b"path", header[:_FIELD].rstrip(b"\0"))
    target = records.get(b"linkpath", header[157:257].rstrip(b"\0"))
    size = _digits(records[b"size"], 10) if b"size" in records else number(header[124:136])
    return Entry(
        path.removesuffix(b"/") if kind == FOLDER else path,
        kind,
        number(header[100:108]),
        size=size if kind == FILE else 0,
        target=target if kind == LINK else b"",
    )


def kind_of(header: bytes) -> bytes:
    """The type flag of a header."""
    return header[156:157]


def number(field: bytes) -> int:
    """What an octal field of a header says.

    Raises:
        ArchiveFormError: it is no octal number.
    """
    return _digits(field.removesuffix(b"\0"), 8)


def _digits(text: bytes, base: int) -> int:
    try:
        if text.isdigit() and len(text) <= _MAX_DIGITS:
            return int(text, base)
    except ValueError:
        pass
    raise ArchiveFormError("a number in a header is none")


def records_of(body: bytes) -> dict[bytes, bytes]:
    """The records of a pax header, by keyword.

    Raises:
        ArchiveFormError: a record does not fit into `body`.
    """
    found: dict[bytes, bytes] = {}
    while body:
        digits, _, _ = body.partition(b" ")
        length = _digits(digits, 10)
        if not len(digits) + 1 < length <= len(body):
            raise ArchiveFormError("a pax record does not fit its header")
        keyword, _, value = body[len(digits) + 1 : length - 1].partition(b"=")
        found[keyword] = value
        body = body[length:]
    return found
