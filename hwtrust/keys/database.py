"""The key store's SQLite file: how it is made, opened, checked and written.

All SQL is here, and no key is: this module sees ciphertexts only. What a row
means, and whether it is authentic, is the business of `contents`.

    store    one row: id of the store, generation, floor, seal
    wraps    the data key, encrypted under the KEK of each epoch that opens it
    entries  one row an entry: name, version, epoch, nonce, ciphertext

Rules:
1. The file is 0600 from its first byte, appears under its name only when it is
   complete, and is refused when it is a link, belongs to somebody else, or has
   any permission for others.
2. Every change is one transaction with a rollback journal, synced with its
   directory. There is no write-ahead log, and what is deleted is overwritten:
   an old wrap must not linger in the file. (Blocks that the file system or a
   flash disk gave up are beyond reach; the old KEK is, too, once the TPM's
   counter has moved.)
3. Nothing in the file is code: the schema must be the known one to the letter,
   so that a planted trigger or view never runs. There is no index, so that no
   second copy of a name can disagree with the first.
4. No sqlite3 error leaves the key store: `converted` makes them KeyStoreErrors.
5. The file itself is never opened beside SQLite: closing any handle of it would
   drop the locks that SQLite holds in this process.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hwtrust.errors import (
    KeyStoreBusyError,
    KeyStoreDamagedError,
    KeyStoreDiskError,
    KeyStoreError,
    KeyStoreMissingError,
    KeyStorePermissionError,
    StateBusyError,
    StateDiskError,
    StateError,
    StateMissingError,
)
from hwtrust.files import PRIVATE_FILE, private_directory, state_error, sync_directory
from hwtrust.keys.contents import FORMAT, MAX_VALUE_SIZE, Entry, EntryRow, Header
from hwtrust.keys.kek import Sealed

if TYPE_CHECKING:
    from collections.abc import Iterator

APPLICATION_ID: Final = 0x68775453  # "hwTS"
MAX_FILE_SIZE: Final = 256 << 20
MEMORY: Final = Path(":memory:")
"""What stands for the path of a store that is in no file."""
_PAGE_SIZE: Final = 4096
_ROW_LIMIT: Final = MAX_VALUE_SIZE + (64 << 10)
_COMPANIONS: Final = ("-journal", "-wal", "-shm")

_SCHEMA: Final = {
    "entries": (
        "CREATE TABLE entries (id INTEGER PRIMARY KEY, name TEXT NOT NULL, "
        "version INTEGER NOT NULL, epoch INTEGER NOT NULL, "
        "nonce BLOB NOT NULL, ciphertext BLOB NOT NULL) STRICT"
    ),
    "store": (
        "CREATE TABLE store (id INTEGER PRIMARY KEY CHECK (id = 1), store_id BLOB NOT NULL, "
        "generation INTEGER NOT NULL, floor INTEGER NOT NULL, seal BLOB NOT NULL) STRICT"
    ),
    "wraps": (
        "CREATE TABLE wraps (epoch INTEGER PRIMARY KEY, "
        "nonce BLOB NOT NULL, ciphertext BLOB NOT NULL) STRICT"
    ),
}

# Every connection, before it reads a row. The second part is what must be answered.
_SETTINGS: Final = (
    ("journal_mode = DELETE", "delete"),
    ("secure_delete = ON", 1),
    ("synchronous = EXTRA", None),
    ("foreign_keys = ON", None),
    ("trusted_schema = OFF", None),
    ("cell_size_check = ON", None),
    ("temp_store = MEMORY", None),
    ("mmap_size = 0", None),
)

_DISK_REASONS: Final = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_CANTOPEN: "read-only",
    sqlite3.SQLITE_IOERR: "io",
}


def damaged(path: Path, what: str, *, reason: str) -> KeyStoreDamagedError:
    """The error for a key store whose file is not what hwtrust wrote."""
    return KeyStoreDamagedError(f"{path}: {what}", path=str(path), reason=reason)


def _from_sqlite(error: sqlite3.Error, path: Path) -> KeyStoreError:
    where = str(path)
    extended: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    code = extended & 0xFF
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return KeyStoreBusyError(f"{where}: another program uses the file", path=where)
    # Its name, never its message: a message may quote the file, escape sequences included.
    name: str = getattr(error, "sqlite_errorname", type(error).__name__)
    if code in _DISK_REASONS:
        reason = _DISK_REASONS[code]
        return KeyStoreDiskError(f"{where}: {name}", path=where, reason=reason)
    if code == sqlite3.SQLITE_NOTADB:
        return damaged(path, "this is not an SQLite file", reason="not-a-database")
    return damaged(path, f"the file is damaged ({name})", reason="corrupt")


def _from_state(error: StateError, path: Path) -> KeyStoreError:
    where = str(path)
    if isinstance(error, StateBusyError):
        return KeyStoreBusyError(f"{where}: another process has it open", path=where)
    if isinstance(error, StateMissingError):
        return KeyStoreMissingError(error.message, path=where)
    if isinstance(error, StateDiskError):
        return KeyStoreDiskError(error.message, path=where, reason=error.data.get("reason"))
    return KeyStorePermissionError(error.message, path=where)


@contextlib.contextmanager
def converted(path: Path) -> Iterator[None]:
    """Turn errors of SQLite, the file system and `hwtrust.files` into KeyStoreErrors."""
    try:
        yield
    except KeyStoreDamagedError as error:
        error.data.setdefault("path", str(path))
        raise
    except sqlite3.Error as error:
        raise _from_sqlite(error, path) from error
    except UnicodeDecodeError as error:
        # sqlite3 decodes SQLite's message, and that may quote bytes of a damaged schema.
        raise damaged(path, "the file is damaged", reason="corrupt") from error
    except StateError as error:
        raise _from_state(error, path) from error
    except OSError as error:
        raise _from_state(state_error(error, path), path) from error


def check_file(path: Path) -> None:
    """Refuse a key store that is missing, a link, or within reach of others.

    Raises:
        KeyStoreMissingError: there is nothing at the path.
        KeyStorePermissionError: it is no regular file, belongs to somebody
            else, others have any permission for it, can write its directory, or
            it has a second name, under which its lock and journal are others.
        KeyStoreDamagedError: it is larger than a key store ever gets.
    """
    where = str(path)
    with converted(path):
        found = path.lstat()
        private_directory(path.parent)
    if not stat.S_ISREG(found.st_mode):
        raise KeyStorePermissionError(f"{where} is not a regular file", path=where)
    if found.st_uid != os.geteuid():
        raise KeyStorePermissionError(
            f"{where} belongs to uid {found.st_uid}", path=where, uid=found.st_uid
        )
    if found.st_nlink > 1:
        raise KeyStorePermissionError(
            f"{where} has {found.st_nlink} names (hard links)", path=where, links=found.st_nlink
        )
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(found.st_mode)
        raise KeyStorePermissionError(
            f"others may use {where} (mode {mode:04o})", path=where, mode=mode
        )
    if found.st_size > MAX_FILE_SIZE:
        raise damaged(path, f"larger than {MAX_FILE_SIZE} bytes", reason="size")


def _set(connection: sqlite3.Connection, path: Path) -> None:
    for setting, expected in _SETTINGS:
        answer = _one(connection, f"PRAGMA {setting}")
        if expected is not None and answer != expected:
            raise damaged(path, f"SQLite refused {setting}", reason="settings")


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: SQLite itself must never make the file, for it would ask the umask.
    uri = f"file:{urllib.parse.quote(os.fsencode(path))}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _ROW_LIMIT)
        _set(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _one(connection: sqlite3.Connection, question: str) -> Any:  # noqa: ANN401 - SQL is untyped
    row = connection.execute(question).fetchone()
    return None if row is None else row[0]


class Database:
    """An open key store file. Its methods raise sqlite3 errors: call them in `converted`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open the file at `path` after checking what it is and that it is whole.

        Raises:
            KeyStoreError: as `check_file` says; or the file is not a key
                store, of a newer format, or damaged in its structure.
        """
        check_file(path)
        with converted(path):
            database = cls(path, _connect(path))
            try:
                database._check_kind()
                database._check_structure()
            except BaseException:
                database.close()
                raise
            return database

    @classmethod
    def create(cls, path: Path) -> Database:
        """A new file at `path` with empty tables; leftovers of an earlier try are removed."""
        with converted(path):
            discard(path)
            handle = os.open(
                path,
                os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                PRIVATE_FILE,
            )
            os.close(handle)
            connection = _connect(path)
            try:
                connection.execute(f"PRAGMA page_size = {_PAGE_SIZE}")
                database = cls(path, connection)
                database._make_tables()
            except BaseException:
                connection.close()
                raise
            return database

    @classmethod
    def in_memory(cls) -> Database:
        """A new one with empty tables that is in no file, and gone when it is closed."""
        with converted(MEMORY):
            connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            try:
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _ROW_LIMIT)
                for setting, _ in _SETTINGS:
                    connection.execute(f"PRAGMA {setting}")
                database = cls(MEMORY, connection)
                database._make_tables()
                database._bound_size()
            except BaseException:
                connection.close()
                raise
            return database

    def _make_tables(self) -> None:
        with self.transaction():
            self._connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._connection.execute(f"PRAGMA user_version = {FORMAT}")
            for statement in _SCHEMA.values():
                self._connection.execute(statement)

    def _check_kind(self) -> None:
        kind = _one(self._connection, "PRAGMA application_id")
        if kind != APPLICATION_ID:
            raise damaged(self._path, "this is not a key store", reason="application-id")
        version = _one(self._connection, "PRAGMA user_version")
        if version != FORMAT:
            what = f"format {version} is not one that this version of hwtrust reads"
            raise damaged(self._path, what, reason="version")

    def _check_structure(self) -> None:
        schema = self._connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()
        known = {("table", name, sql) for name, sql in _SCHEMA.items()}
        if len(schema) != len(known) or set(schema) != known:
            raise damaged(self._path, "the tables are not those of a key store", reason="schema")
        if _one(self._connection, "PRAGMA quick_check(1)") != "ok":
            raise damaged(self._path, "pages of the file are damaged", reason="corrupt")
        self._bound_size()

    def _bound_size(self) -> None:
        pages = MAX_FILE_SIZE // max(1, _one(self._connection, "PRAGMA page_size"))
        self._connection.execute(f"PRAGMA max_page_count = {pages}")

    def close(self) -> None:
        """Close the file; does nothing the second time."""
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements of the block, durably, or none of them."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            raise

    def _typed(self, row: tuple[Any, ...], *types: type) -> tuple[Any, ...]:
        # A flipped byte can turn any column into any type; STRICT is checked on writing only.
        for value, expected in zip(row, types, strict=True):
            if type(value) is not expected:
                raise damaged(self._path, "a row has a value of another type", reason="row")
            if isinstance(value, int) and value < 0:
                raise damaged(self._path, "a row has a negative number", reason="row")
        return row

    def header(self) -> Header:
        """The row of table `store`."""
        rows = self._connection.execute(
            "SELECT store_id, generation, floor, seal FROM store"
        ).fetchmany(2)
        if len(rows) != 1:
            raise damaged(self._path, "it does not have exactly one header", reason="row")
        return Header(*self._typed(rows[0], bytes, int, int, bytes))

    def epochs(self) -> tuple[int, ...]:
        """The epochs that have a wrap, in ascending order."""
        rows = self._connection.execute("SELECT epoch FROM wraps ORDER BY epoch")
        return tuple(self._typed(row, int)[0] for row in rows)

    def wraps(self) -> dict[int, Sealed]:
        """The wrapped data key by epoch."""
        found: dict[int, Sealed] = {}
        for row in self._connection.execute("SELECT epoch, nonce, ciphertext FROM wraps"):
            epoch, nonce, ciphertext = self._typed(row, int, bytes, bytes)
            found[epoch] = Sealed(nonce, ciphertext)
        return found

    def entries(self) -> Iterator[EntryRow]:
        """All rows of table `entries`, in the order of the file."""
        question = "SELECT id, name, version, epoch, nonce, ciphertext FROM entries"
        for row in self._connection.execute(question):
            number, name, version, epoch, nonce, ciphertext = self._typed(
                row, int, str, int, int, bytes, bytes
            )
            yield EntryRow(number, name, version, epoch, Sealed(nonce, ciphertext))

    def ciphertext(self, row: int) -> Sealed:
        """Nonce and ciphertext of the entry in row `row`."""
        found = self._connection.execute(
            "SELECT nonce, ciphertext FROM entries WHERE id = ?", (row,)
        ).fetchone()
        if found is None:
            raise damaged(self._path, "an entry is gone from the open file", reason="entry")
        return Sealed(*self._typed(found, bytes, bytes))

    def write_header(self, header: Header) -> None:
        """Insert or replace the row of table `store`."""
        self._connection.execute(
            "INSERT OR REPLACE INTO store (id, store_id, generation, floor, seal) "
            "VALUES (1, ?, ?, ?, ?)",
            (header.store_id, header.generation, header.floor, header.seal),
        )

    def write_wrap(self, epoch: int, sealed: Sealed) -> None:
        """Insert or replace the wrap of `epoch`."""
        self._connection.execute(
            "INSERT OR REPLACE INTO wraps (epoch, nonce, ciphertext) VALUES (?, ?, ?)",
            (epoch, sealed.nonce, sealed.ciphertext),
        )

    def delete_wrap(self, epoch: int) -> None:
        """Delete the wrap of `epoch`; its bytes are overwritten."""
        self._changed_one(self._connection.execute("DELETE FROM wraps WHERE epoch = ?", (epoch,)))

    def insert_entry(self, entry: Entry, sealed: Sealed) -> int:
        """Insert an entry; the number of its row."""
        cursor = self._connection.execute(
            "INSERT INTO entries (name, version, epoch, nonce, ciphertext) VALUES (?, ?, ?, ?, ?)",
            (entry.name, entry.version, entry.epoch, sealed.nonce, sealed.ciphertext),
        )
        row = cursor.lastrowid
        if row is None:
            raise damaged(self._path, "SQLite inserted no row", reason="entry")
        return row

    def update_entry(self, row: int, entry: Entry, sealed: Sealed) -> None:
        """Replace what the entry in row `row` holds."""
        self._changed_one(
            self._connection.execute(
                "UPDATE entries SET version = ?, epoch = ?, nonce = ?, ciphertext = ? WHERE id = ?",
                (entry.version, entry.epoch, sealed.nonce, sealed.ciphertext, row),
            )
        )

    def delete_entry(self, row: int) -> None:
        """Delete the entry in row `row`; its bytes are overwritten."""
        self._changed_one(self._connection.execute("DELETE FROM entries WHERE id = ?", (row,)))

    def _changed_one(self, cursor: sqlite3.Cursor) -> None:
        if cursor.rowcount != 1:
            raise damaged(self._path, "a row is gone from the open file", reason="entry")


def _discard_companions(path: Path) -> None:
    for suffix in _COMPANIONS:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Remove an unfinished database and what SQLite left beside it."""
    with converted(path):
        _discard_companions(path)
        path.unlink(missing_ok=True)


def move_into_place(source: Path, target: Path) -> None:
    """Give a complete, closed database its final name, durably.

    The journal of a former file of that name would be rolled back into the new
    one: it is removed first.
    """
    with converted(target):
        _discard_companions(target)
        source.replace(target)
        sync_directory(target.parent)
