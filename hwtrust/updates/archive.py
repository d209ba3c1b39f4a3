"""A tree of files as one file, to be published and downloaded, and back.

The form is POSIX tar (pax interchange format), uncompressed, which any tar
unpacks. Of all the archives that hold a tree, one is the layer's:

    entry   = [ pax header | records ] | header | content, padded to 512 bytes
    archive = entries, sorted by path as bytes | 1024 zero bytes

with mtime, uid and gid 0 and no owner names; a pax header only for what the
header has no room for: a path or link target that is longer than 100 bytes or
not ASCII, a size of 8 GiB or more.

Rules:
1. What is read is what `pack` writes, byte for byte: an entry that would be
   written otherwise is refused. So sparse files, global headers, base-256
   numbers, owners, times and other tars' ideas have no way in.
2. Entries are files, directories and links that stay inside the tree. No hard
   links, devices, FIFOs; no setuid, setgid or sticky bits.
3. Names are relative, without `.` and `..`, and UTF-8. Each comes once, in
   order, behind the directory that holds it.
4. A link's target is relative, goes up only at its start, and never above the
   tree; so no chain of links leaves it.
5. The caller says how many bytes there may be. Nothing is written of an entry
   that goes beyond.
6. `pack` refuses what `unpack` refuses, so the vendor hears of it, not the fleet.
7. What is here knows nothing of digests: whoever unpacks then measures.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, Final

from hwtrust.errors import (
    ArchiveFormError,
    ArchiveLimitError,
    ArchiveTruncatedError,
    LayerUnreadableError,
)
from hwtrust.files import state_error
from hwtrust.updates.entries import (
    BLOCK,
    FILE,
    FOLDER,
    LINK,
    MAX_ENTRIES,
    MAX_RECORDS,
    PAX,
    Entry,
    Rules,
    check_mode,
    decode,
    encode,
    kind_of,
    number,
    records_of,
)
from hwtrust.updates.trees import CHUNK, MODE, Tree, TreeMaker, write_all

if TYPE_CHECKING:
    from pathlib import Path

_END: Final = bytes(2 * BLOCK)

# --- packing ---------------------------------------------------------------------


def pack(tree: Path, target: BinaryIO) -> None:
    """Write the archive of the layer at `tree` to `target`.

    The same tree gives the same bytes, whoever packs it, wherever and whenever.

    Raises:
        LayerUnreadableError: the tree is missing, unreadable, changes meanwhile,
            or holds something that is not a file, directory or link.
        ArchiveError: it holds what no device unpacks: a setuid file, a link that
            leaves it, a name that is not UTF-8, too much.
        StateDiskError: `target` cannot be written.
    """
    try:
        with Tree.at(tree.resolve(strict=True)) as source:
            rules = Rules()
            for path, status in _sorted(source):
                entry = _entry(source, path, status)
                rules.check(entry)
                _pack_entry(source, entry, target)
        _write(target, _END)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"layer {tree} cannot be packed: {reason}"
        raise LayerUnreadableError(message, path=str(tree)) from error


def _sorted(tree: Tree) -> list[tuple[bytes, os.stat_result]]:
    # One more than may be, so that the rules refuse a tree of millions without holding it.
    return sorted(islice(tree.entries(), MAX_ENTRIES + 1), key=lambda entry: entry[0])


def _entry(tree: Tree, path: bytes, status: os.stat_result) -> Entry:
    mode = status.st_mode & MODE
    if stat.S_ISREG(status.st_mode):
        return Entry(path, FILE, mode, size=status.st_size)
    if stat.S_ISDIR(status.st_mode):
        return Entry(path, FOLDER, mode)
    if stat.S_ISLNK(status.st_mode):
        return Entry(path, LINK, mode, target=tree.link(path))
    raise OSError(0, f"{os.fsdecode(path)!r} is not a file, directory or link")


def _pack_entry(tree: Tree, entry: Entry, target: BinaryIO) -> None:
    if entry.kind != FILE:
        _write(target, encode(entry))
        return
    with os.fdopen(tree.read(entry.path), "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        entry = replace(entry, mode=status.st_mode & MODE, size=status.st_size)
        check_mode(entry)
        _write(target, encode(entry))
        rest = entry.size
        while rest and (chunk := file.read(min(rest, CHUNK))):
            _write(target, chunk)
            rest -= len(chunk)
        if rest or file.read(1):
            raise OSError(0, f"{os.fsdecode(entry.path)!r} changed while it was packed")
    _write(target, bytes(entry.padding))


def _write(target: BinaryIO, data: bytes) -> None:
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[target.write(rest) :]
    except OSError as error:
        raise state_error(error, str(getattr(target, "name", "archive"))) from error


# --- unpacking -------------------------------------------------------------------


def unpack(archive: BinaryIO, into: Path, *, limit: int) -> None:
    """Make the tree that `archive` holds, as the new directory `into` (0755).

    The caller brings it to the disk (`hwtrust.updates.trees.sync`). What was
    unpacked before an error stays there, for the caller to remove.

    Args:
        archive: read from where it stands to its end, in one pass.
        into: must not be there yet; the directory around it must.
        limit: how many bytes the archive may have at most.

    Raises:
        ArchiveError: the archive is not one that `pack` makes, or is longer than
            `limit`; the class says in what.
        StateError: there is no room, no permission, or `into` is there already.
    """
    source = _Source(archive, into, limit)
    try:
        with TreeMaker(into) as maker:
            rules = Rules()
            while (entry := source.entry()) is not None:
                rules.check(entry)
                source.expect(entry.size + entry.padding)
                _unpack_entry(source, entry, maker)
            maker.finish()
    except OSError as error:
        raise state_error(error, into) from error


def _unpack_entry(source: _Source, entry: Entry, maker: TreeMaker) -> None:
    if entry.kind == FOLDER:
        maker.make_folder(entry.path, entry.mode)
    elif entry.kind == LINK:
        maker.make_link(entry.path, entry.target)
    else:
        with maker.make_file(entry.path, entry.mode) as descriptor:
            rest = entry.size
            while rest:
                chunk = source.take(min(rest, CHUNK))
                write_all(descriptor, chunk)
                rest -= len(chunk)
        if source.take(entry.padding).strip(b"\0"):
            raise ArchiveFormError("the padding of a file is not zero", offset=source.offset)


class _Source:
    """The archive's bytes, counted, as entries."""

    def __init__(self, archive: BinaryIO, into: Path, limit: int) -> None:
        self._archive = archive
        self._into = into
        self._limit = limit
        self.offset = 0

    def expect(self, count: int) -> None:
        """Refuse what would go beyond the limit, before any of it is read."""
        if self.offset + count > self._limit:
            raise ArchiveLimitError(
                f"the archive is longer than {self._limit} bytes", limit=self._limit
            )

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        self.expect(count)
        data = b""
        while len(data) < count and (more := self._archive.read(count - len(data))):
            data += more
        self.offset += len(data)
        if len(data) < count:
            raise ArchiveTruncatedError("the archive ends in the middle", offset=self.offset)
        return data

    def entry(self) -> Entry | None:
        """The next entry, or None at the end."""
        start = self.offset
        raw = self.take(BLOCK)
        if raw == _END[:BLOCK]:
            self._end()
            return None
        records: dict[bytes, bytes] = {}
        if kind_of(raw) == PAX:
            size = number(raw[124:136])
            if not 0 < size <= MAX_RECORDS:
                raise ArchiveFormError("a pax header has no reasonable length", offset=start)
            body = self.take(size + -size % BLOCK)
            records = records_of(body[:size])
            raw += body
            raw += self.take(BLOCK)
        entry = decode(raw[-BLOCK:], records)
        if encode(entry) != raw:
            raise ArchiveFormError(
                "a header is not in the form in which layers are packed", offset=start
            )
        return entry

    def _end(self) -> None:
        if self.take(BLOCK).strip(b"\0") or self._archive.read(1):
            raise ArchiveFormError("something follows the end of the archive", offset=self.offset)
