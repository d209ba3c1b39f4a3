"""The key store: named secrets in one file that only the current dynamic root opens.

    dynamic root E ──► KEK(E) ────wraps──► data key ──encrypts──► entries
                       KEK(E+1) ──wraps──┘ (during a rotation)

Boundary: it takes a `Kek` and gives entries. Unsealing the root, and deciding
which epoch is active, happens elsewhere. `contents` says what is authenticated
and how, `database` how the file is made and written.

Rules:
1. Everything is checked at opening: the file, the wrap and the seal over all of it.
2. After that the authenticated list in memory is what counts: a row that
   changes under an open store is refused, not believed.
3. A change is one transaction, the seal included. Killed anywhere, the file
   holds the state before or the state after.
4. A rotation makes a fresh data key. Between its two halves the store opens
   under the old and the new KEK; the increment of the TPM's counter, between
   the two, is what decides. No wrap is dropped unless one stays that this
   object has opened or made.
5. The keys are forgotten by `close`, and a value is in no variable of this
   package when an error leaves it.

What it cannot notice: a whole older copy of the file, put back within the same
epoch, is authentic. After a rotation such a copy does not open any more
(KeyStoreEpochError, and the TPM no longer releases its root). A caller that can
remember a number elsewhere may compare `generation`. During a rotation, who
holds the old KEK can read the new data key: the old epoch ends when
`finish_rotation` returns.

Versions of a name count up by one at each `put`. There are no tombstones: what
`delete` leaves is one number for the whole store, the highest version ever
deleted, and a new name starts above it. So no name has a version twice.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

import msgspec

from hwtrust.errors import (
    EntryNotFoundError,
    KeyStoreDamagedError,
    KeyStoreEpochError,
    KeyStoreExistsError,
    KeyStoreLockedError,
)
from hwtrust.files import FileLock, private_directory
from hwtrust.keys.contents import Contents, Entry, Header, Held, check_name, check_size
from hwtrust.keys.database import (
    MEMORY,
    Database,
    check_file,
    converted,
    discard,
    move_into_place,
)
from hwtrust.keys.kek import DataKey, Kek, Sealed, check_device

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType


class KeyStore:
    """An open key store; a context manager that forgets the keys at its end.

    It can be used from several threads. One opener at a time has the file; a
    file of the same name with `.lock` at its end holds the lock and stays.
    """

    def __init__(
        self, path: Path, database: Database, lock: FileLock | None, kek: Kek, device: bytes
    ) -> None:
        """For `create`, `open` and `in_memory`; they hand over `database` and the held `lock`."""
        self._path = path
        self._database = database
        self._lock = lock
        self._device = device
        self._epoch = kek.epoch
        self._keks = {kek.epoch: kek.duplicate()}
        self._contents: Contents | None = None
        self._possible: tuple[Header, ...] = ()
        self._mutex = threading.RLock()

    def __repr__(self) -> str:
        state = "closed" if self._contents is None else f"epoch {self._epoch}"
        return f"<KeyStore {self._path}, {state}>"

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a key store cannot be pickled or copied")

    # --- opening and closing ---------------------------------------------------

    @classmethod
    def create(cls, path: str | os.PathLike[str], kek: Kek, *, device: bytes) -> Self:
        """Make an empty store at `path` and open it. Its directory is made if need be (0700).

        `device` is the EK's Name, as in `derive_kek`.

        Raises:
            KeyStoreExistsError: there is something at the path.
            KeyStoreBusyError: another process is making it.
            KeyStorePermissionError: others can write the directory.
            KeyStoreDiskError: the disk is full, read-only or failing.
        """
        where = Path(path).absolute()
        check_device(device)
        with contextlib.ExitStack() as cleanup:
            with converted(where):
                private_directory(where.parent)
                lock = cleanup.enter_context(_lock_of(where))
            if os.path.lexists(where):
                raise KeyStoreExistsError(f"{where} exists", path=str(where))
            unfinished = where.with_name(where.name + ".new")
            cleanup.callback(discard, unfinished)
            with contextlib.closing(Database.create(unfinished)) as database, converted(where):
                _fill(database, kek, device)
            move_into_place(unfinished, where)
            store = cls._opened(where, Database.open(where), lock, kek, device)
            cleanup.pop_all()
            return store

    @classmethod
    def in_memory(cls, kek: Kek, *, device: bytes) -> Self:
        """An empty store that is in no file: what is in it is gone when it is closed.

        Raises:
            KeyStoreLockedError: the KEK has been erased.
        """
        check_device(device)
        database = Database.in_memory()
        try:
            with converted(MEMORY):
                _fill(database, kek, device)
        except BaseException:
            database.close()
            raise
        return cls._opened(MEMORY, database, None, kek, device)

    @classmethod
    def open(cls, path: str | os.PathLike[str], kek: Kek, *, device: bytes) -> Self:
        """Open the store at `path` and check all of it.

        Raises:
            KeyStoreMissingError: there is none.
            KeyStorePermissionError: it is a link, others may use it or write
                its directory, or it belongs to somebody else.
            KeyStoreBusyError: it is open already, here or in another process.
            KeyStoreEpochError: it is not wrapped for the KEK's epoch
                (`data["epoch"]`; `data["present"]` lists those it is wrapped for).
            KeyStoreDamagedError: it is not a key store, is damaged, was changed
                outside hwtrust, or the KEK is another one (`data["reason"]`).
            KeyStoreLockedError: the KEK has been erased.
        """
        where = Path(path).absolute()
        check_device(device)
        check_file(where)
        with contextlib.ExitStack() as cleanup:
            with converted(where):
                lock = cleanup.enter_context(_lock_of(where))
            store = cls._opened(where, Database.open(where), lock, kek, device)
            cleanup.pop_all()
            return store

    @classmethod
    def _opened(
        cls, path: Path, database: Database, lock: FileLock | None, kek: Kek, device: bytes
    ) -> Self:
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(database.close)
            store = cls(path, database, lock, kek, device)
            cleanup.callback(store._forget)
            with converted(path):
                store._contents = store._load()
            cleanup.pop_all()
            return store

    @staticmethod
    def epochs(path: str | os.PathLike[str]) -> tuple[int, ...]:
        """The epochs whose KEK opens the store at `path`, ascending.

        Needs no key, and says what the file says: nothing of it is authenticated.

        Raises:
            KeyStoreError: as `open`, as far as it goes without a key.
        """
        where = Path(path).absolute()
        with contextlib.closing(Database.open(where)) as database, converted(where):
            return database.epochs()

    def close(self) -> None:
        """Forget the keys, close the file, release the lock; harmless when repeated."""
        with self._mutex:
            self._forget()
            try:
                with converted(self._path):
                    self._database.close()
            finally:
                if self._lock is not None:
                    self._lock.release()

    def _forget(self) -> None:
        contents, self._contents = self._contents, None
        if contents is not None:
            contents.data_key.erase()
        for epoch in set(self._keks):
            self._keks.pop(epoch).erase()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- reading ---------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of the KEK by which the store is open."""
        return self._epoch

    @property
    def generation(self) -> int:
        """How many changes were made since the store was created."""
        with self._working() as contents:
            return contents.generation

    def __getitem__(self, name: str) -> bytes:
        """The value of entry `name`.

        Raises:
            EntryNotFoundError: there is none.
            KeyStoreDamagedError: the file was changed while the store was open.
            KeyStoreLockedError: the store is closed; so of every method below.
        """
        with self._working() as contents:
            return self._value(contents, self._held(contents, name))

    def get(self, name: str, default: bytes | None = None) -> bytes | None:
        """The value of entry `name`, or `default` when there is none."""
        with self._working() as contents:
            held = contents.entries.get(name)
            return default if held is None else self._value(contents, held)

    def list(self) -> tuple[Entry, ...]:
        """What is known of each entry, sorted by name; nothing is decrypted."""
        with self._working() as contents:
            return tuple(held.entry for _, held in sorted(contents.entries.items()))

    def __iter__(self) -> Iterator[str]:
        return iter(entry.name for entry in self.list())

    def __contains__(self, name: object) -> bool:
        with self._working() as contents:
            return name in contents.entries

    def __len__(self) -> int:
        with self._working() as contents:
            return len(contents.entries)

    def _held(self, contents: Contents, name: str) -> Held:
        held = contents.entries.get(name)
        if held is None:
            raise EntryNotFoundError(f"{self._path}: there is no such entry", name=name)
        return held

    def _value(self, contents: Contents, held: Held) -> bytes:
        return contents.decrypt(held, self._database.ciphertext(held.row))

    # --- writing ---------------------------------------------------------------

    def put(self, name: str, value: bytes) -> Entry:
        """Store `value` under `name`, replacing what was there.

        Raises:
            EntryNameError: the name is not 1 to 255 printable characters with
                non-empty parts between slashes, or the value exceeds 1 MiB.
            KeyStoreDiskError: the disk is full, read-only or failing; the
                former value is still there.
        """
        try:
            with self._working() as contents:
                check_name(name)
                check_size(name, len(value))
                entry = contents.next_entry(name, size=len(value))
                sealed = contents.encrypt(entry, value)
                former = contents.entries.get(name)
                with self._changing(contents) as draft:
                    if former is None:
                        row = self._database.insert_entry(entry, sealed)
                    else:
                        row = former.row
                        self._database.update_entry(row, entry, sealed)
                    draft.entries[name] = Held(row, entry, sealed.digest)
                return entry
        finally:
            del value  # an error's traceback may show variables, and must not show this one

    def delete(self, name: str) -> None:
        """Delete entry `name`; its ciphertext is overwritten in the file.

        Raises:
            EntryNotFoundError: there is none.
            KeyStoreDiskError: the disk is full, read-only or failing.
        """
        with self._working() as contents:
            held = self._held(contents, name)
            with self._changing(contents) as draft:
                self._database.delete_entry(held.row)
                draft.floor = max(draft.floor, held.entry.version)
                del draft.entries[name]

    # --- rotation --------------------------------------------------------------

    def begin_rotation(self, new_kek: Kek) -> None:
        """Re-encrypt everything under a fresh data key, which both epochs' KEKs open.

        One transaction. Repeated with the same KEK it does nothing; with
        another KEK of the same epoch (a root that was issued anew) it starts
        over. Wraps of other epochs than the current and the new one go.

        Raises:
            KeyStoreEpochError: the new epoch is not above the current one.
            KeyStoreDiskError: the disk is full, read-only or failing; the
                store is as it was.
            KeyStoreLockedError: the new KEK has been erased.
        """
        with self._working() as contents:
            if new_kek.epoch <= self._epoch:
                raise KeyStoreEpochError(
                    f"epoch {new_kek.epoch} is not above epoch {self._epoch}",
                    epoch=new_kek.epoch,
                    current=self._epoch,
                )
            kept = new_kek.duplicate()
            try:
                if not contents.wrapped_under(kept):
                    with self._changing(contents) as draft:
                        draft.data_key = DataKey.generate()
                        self._rewrap(draft, kept)
                        self._reencrypt(contents, draft, kept.epoch)
            except BaseException:
                kept.erase()
                raise
            self._forget_keks(but=self._epoch)
            self._keks[kept.epoch] = kept

    def finish_rotation(self, epoch: int) -> None:
        """Drop every wrap but that of `epoch`: no other KEK opens the store any more.

        One transaction; does nothing when there is no other wrap. With the old
        epoch it takes a rotation back. The KEK of `epoch` must be one that this
        object was opened with or was given by `begin_rotation`, so that the
        wrap that stays is known to open.

        Raises:
            KeyStoreEpochError: it is not.
            KeyStoreDiskError: the disk is full, read-only or failing; no wrap
                was dropped.
        """
        with self._working() as contents:
            if epoch not in contents.wraps or epoch not in self._keks:
                what = f"no KEK of epoch {epoch} has opened the store"
                raise self._epoch_error(what, epoch, contents.wraps)
            others = set(contents.wraps) - {epoch}
            if others:
                with self._changing(contents) as draft:
                    for other in others:
                        self._database.delete_wrap(other)
                        del draft.wraps[other]
            self._epoch = epoch
            self._forget_keks(but=epoch)

    def rotate(self, new_kek: Kek) -> None:
        """`begin_rotation` and `finish_rotation` at once, for a store without a counter.

        Raises:
            KeyStoreError: as these two.
        """
        with self._mutex:
            self.begin_rotation(new_kek)
            self.finish_rotation(new_kek.epoch)

    def _rewrap(self, draft: Contents, new_kek: Kek) -> None:
        for epoch in tuple(draft.wraps):
            self._database.delete_wrap(epoch)
            del draft.wraps[epoch]
        for kek in (self._keks[self._epoch], new_kek):
            self._database.write_wrap(kek.epoch, draft.wrap(kek))

    def _reencrypt(self, contents: Contents, draft: Contents, epoch: int) -> None:
        for name, held in contents.entries.items():
            entry = msgspec.structs.replace(held.entry, epoch=epoch)
            sealed = draft.encrypt(entry, self._value(contents, held))
            self._database.update_entry(held.row, entry, sealed)
            draft.entries[name] = Held(held.row, entry, sealed.digest)

    def _forget_keks(self, *, but: int) -> None:
        for epoch in set(self._keks) - {but}:
            self._keks.pop(epoch).erase()

    def _epoch_error(self, what: str, epoch: int, present: dict[int, Sealed]) -> KeyStoreEpochError:
        listed = ",".join(map(str, sorted(present)))
        where = str(self._path)
        return KeyStoreEpochError(f"{where}: {what}", path=where, epoch=epoch, present=listed)

    # --- memory and file -------------------------------------------------------

    def _load(self) -> Contents:
        """Read and authenticate the whole file with a KEK that is held."""
        header = self._database.header()
        wraps = self._database.wraps()
        usable = [epoch for epoch in (self._epoch, *self._keks) if epoch in wraps]
        if not usable:
            what = f"it is not wrapped for epoch {self._epoch}"
            raise self._epoch_error(what, self._epoch, wraps)
        contents = Contents.authentic(
            self._keks[usable[0]],
            device=self._device,
            header=header,
            wraps=wraps,
            rows=self._database.entries(),
        )
        self._epoch = usable[0]
        return contents

    @contextlib.contextmanager
    def _working(self) -> Iterator[Contents]:
        """The contents of the open store, for one operation of one thread."""
        with self._mutex, converted(self._path):
            if self._contents is None:
                raise KeyStoreLockedError(f"{self._path} is closed", path=str(self._path))
            if self._possible:
                self._settle(self._contents)
            yield self._contents

    @contextlib.contextmanager
    def _changing(self, contents: Contents) -> Iterator[Contents]:
        """A copy of `contents` to be changed along with the file, in one transaction."""
        draft = contents.successor()
        before = contents.header()
        # A commit that fails late may have happened all the same: then the file decides.
        self._possible = (before,)
        try:
            with self._database.transaction():
                self._check_unchanged(before)
                yield draft
                after = draft.header()
                self._possible = (before, after)
                self._database.write_header(after)
        except BaseException:
            if draft.data_key is not contents.data_key:
                draft.data_key.erase()
            raise
        self._contents = draft
        self._possible = ()
        if draft.data_key is not contents.data_key:
            contents.data_key.erase()

    def _check_unchanged(self, expected: Header) -> None:
        if self._database.header() != expected:
            raise KeyStoreDamagedError("another program changed the open file", reason="seal")

    def _settle(self, former: Contents) -> None:
        """Find out which of the two possible states a failed change left in the file."""
        fresh = self._load()
        if fresh.header() not in self._possible:
            fresh.data_key.erase()
            raise KeyStoreDamagedError("another program changed the open file", reason="seal")
        former.data_key.erase()
        self._contents = fresh
        self._possible = ()


def _fill(database: Database, kek: Kek, device: bytes) -> None:
    """Write what a store without entries has."""
    contents = Contents.fresh(kek, device=device)
    try:
        with database.transaction():
            database.write_wrap(kek.epoch, contents.wraps[kek.epoch])
            database.write_header(contents.header())
    finally:
        contents.data_key.erase()


def _lock_of(path: Path) -> FileLock:
    return FileLock(path.with_name(path.name + ".lock"))
