"""What an open key store holds in memory, and how each part of it is authenticated.

Pure: no file and no clock. `Contents` is everything but the ciphertexts of the
entries; of these it keeps the digests. Its encodings are the store's format 1.

Rules:
1. The seal is an HMAC under a key derived from the data key. It covers the list
   of wraps, the list of entries (name, version, epoch, digest of nonce and
   ciphertext), and a generation that counts every change. An entry or wrap
   added, deleted, duplicated, or replaced by an older version of itself is
   noticed.
2. Each ciphertext is bound to its place by associated data: a wrap to format,
   store, device and epoch; an entry to format, store, name, version and epoch.
   What is swapped does not decrypt.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from hwtrust.errors import EntryNameError, KeyStoreDamagedError
from hwtrust.keys.kek import DataKey, Kek, Sealed, encode

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT: Final = 1
MAX_NAME_LENGTH: Final = 255
MAX_VALUE_SIZE: Final = 1 << 20
STORE_ID_SIZE: Final = 16


class Entry(msgspec.Struct, frozen=True):
    """What the store says about an entry without decrypting it.

    `version` counts the puts of the name, `epoch` is the one whose data key
    the value is encrypted under, `size` the length of the value in bytes.
    """

    name: str
    version: int
    epoch: int
    size: int


class Header(msgspec.Struct, frozen=True):
    """The row of the file that holds the seal."""

    store_id: bytes
    generation: int
    floor: int
    seal: bytes


class EntryRow(msgspec.Struct, frozen=True):
    """An entry as the file has it; not authenticated yet."""

    row: int
    name: str
    version: int
    epoch: int
    sealed: Sealed


class Held(msgspec.Struct, frozen=True):
    """An authenticated entry: the row it is in, and the digest of its ciphertext."""

    row: int
    entry: Entry
    digest: bytes


class Contents(msgspec.Struct):
    """The data key, the wraps and the list of entries of one store.

    `floor` is the highest version that was ever deleted.
    """

    store_id: bytes
    device: bytes
    data_key: DataKey
    generation: int = 0
    floor: int = 0
    wraps: dict[int, Sealed] = {}
    entries: dict[str, Held] = {}

    @classmethod
    def fresh(cls, kek: Kek, *, device: bytes) -> Contents:
        """Those of a new, empty store that `kek` opens."""
        contents = cls(os.urandom(STORE_ID_SIZE), device, DataKey.generate())
        contents.wrap(kek)
        return contents

    @classmethod
    def authentic(
        cls,
        kek: Kek,
        *,
        device: bytes,
        header: Header,
        wraps: dict[int, Sealed],
        rows: Iterable[EntryRow],
    ) -> Contents:
        """Those that a file holds, when all of it is what hwtrust wrote last.

        Raises:
            KeyStoreDamagedError: the wrap does not open under `kek` for
                `device`, or the seal is not that of the wraps and entries.
        """
        context = _wrap_context(header.store_id, device, kek.epoch)
        data_key = kek.unwrap(wraps[kek.epoch], context=context)
        contents = cls(header.store_id, device, data_key, header.generation, header.floor, wraps)
        try:
            for row in rows:
                contents._add(row)
            data_key.verify(contents._sealed_bytes(), header.seal)
        except BaseException:
            data_key.erase()
            raise
        return contents

    def _add(self, row: EntryRow) -> None:
        if row.name in self.entries:
            raise KeyStoreDamagedError("an entry is there twice", reason="entry")
        entry = Entry(row.name, row.version, row.epoch, row.sealed.size)
        self.entries[row.name] = Held(row.row, entry, row.sealed.digest)

    def successor(self) -> Contents:
        """A copy of the next generation, to be changed along with the file."""
        return msgspec.structs.replace(
            self,
            generation=self.generation + 1,
            wraps=dict(self.wraps),
            entries=dict(self.entries),
        )

    def header(self) -> Header:
        """The row that holds the seal of these contents."""
        seal = self.data_key.authenticate(self._sealed_bytes())
        return Header(self.store_id, self.generation, self.floor, seal)

    def _sealed_bytes(self) -> bytes:
        parts: list[bytes | int] = [b"hwtrust key store seal", FORMAT, self.store_id, self.device]
        parts += [self.generation, self.floor, len(self.wraps)]
        for epoch, wrap in sorted(self.wraps.items()):
            parts += [epoch, wrap.digest]
        parts.append(len(self.entries))
        for name, held in sorted(self.entries.items()):
            parts += [name.encode(), held.entry.version, held.entry.epoch, held.digest]
        return encode(*parts)

    def wrap(self, kek: Kek) -> Sealed:
        """Wrap the data key under `kek`, for its epoch."""
        context = _wrap_context(self.store_id, self.device, kek.epoch)
        sealed = kek.wrap(self.data_key, context=context)
        self.wraps[kek.epoch] = sealed
        return sealed

    def wrapped_under(self, kek: Kek) -> bool:
        """Whether the newest wrap opens under `kek`; the seal says it holds the data key."""
        if kek.epoch != max(self.wraps):
            return False
        context = _wrap_context(self.store_id, self.device, kek.epoch)
        try:
            kek.unwrap(self.wraps[kek.epoch], context=context).erase()
        except KeyStoreDamagedError:
            return False
        return True

    def next_entry(self, name: str, *, size: int) -> Entry:
        """What the entry that a put of `name` makes will be."""
        former = self.entries.get(name)
        version = (former.entry.version if former else self.floor) + 1
        return Entry(name, version, max(self.wraps), size)

    def encrypt(self, entry: Entry, value: bytes) -> Sealed:
        """The value, bound to its entry."""
        return self.data_key.encrypt(value, context=_entry_context(self.store_id, entry))

    def decrypt(self, held: Held, sealed: Sealed) -> bytes:
        """The value of an entry from the ciphertext that the file has now.

        Raises:
            KeyStoreDamagedError: it is not the one that the seal covers.
        """
        if sealed.digest != held.digest:
            raise KeyStoreDamagedError("an entry changed in the open file", reason="entry")
        context = _entry_context(self.store_id, held.entry)
        return self.data_key.decrypt(sealed, context=context)


def _wrap_context(store_id: bytes, device: bytes, epoch: int) -> bytes:
    return encode(b"hwtrust key store wrap", FORMAT, store_id, device, epoch)


def _entry_context(store_id: bytes, entry: Entry) -> bytes:
    return encode(
        b"hwtrust key store entry",
        FORMAT,
        store_id,
        entry.name.encode(),
        entry.version,
        entry.epoch,
    )


def check_name(name: str) -> None:
    """Check that `name` can be an entry's.

    Raises:
        EntryNameError: it is not 1 to 255 printable characters, or a part of
            it between slashes is empty.
    """
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        raise EntryNameError(f"a name has 1 to {MAX_NAME_LENGTH} characters", length=len(name))
    if not name.isprintable():
        raise EntryNameError(f"a name has printable characters only, not {name!a}")
    if not all(name.split("/")):
        raise EntryNameError(f"a part of the name {name!r} between slashes is empty", name=name)


def check_size(name: str, size: int) -> None:
    """Check the length of the value of entry `name`.

    Raises:
        EntryNameError: it exceeds 1 MiB.
    """
    if size > MAX_VALUE_SIZE:
        raise EntryNameError(f"a value has at most {MAX_VALUE_SIZE} bytes", name=name, size=size)
