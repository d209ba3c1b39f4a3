"""Whatever stops a change of the key store, the file holds the state before it or after it."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hwtrust.errors import KeyStoreDiskError, KeyStoreEpochError, KeyStoreError
from hwtrust.keys import KeyStore, database
from unit.keys.stores import DEVICE, VALUES, contents, kek, make, opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[3]
NOBODY = 65534

# More than SQLite's page cache holds: pages reach the file before the commit.
LARGE = VALUES | {f"large/{number}": bytes([number]) * (1 << 20) for number in range(3)}
REPLACED = LARGE | {"wallet": b"new"}
INSERTED = LARGE | {"another": b"new"}
DELETED = {name: value for name, value in LARGE.items() if name != "wallet"}

Values = dict[str, bytes]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a key store of epoch 1 with VALUES is, closed."""
    where = tmp_path / "keys.db"
    make(where)
    return where


# --- 64, 101: killed ----------------------------------------------------------------------

# The steps; what may be there afterwards; which epochs have to open it before and after the
# last step; and how many statements the last step has at least.
KILLS: dict[str, tuple[str, tuple[Values, ...], set[tuple[int, ...]], int]] = {
    "replacing an entry": ("replace", (LARGE, REPLACED), {(1,)}, 5),
    "adding an entry": ("insert", (LARGE, INSERTED), {(1,)}, 5),
    "deleting an entry": ("delete", (LARGE, DELETED), {(1,)}, 5),
    "beginning a rotation": ("begin", (LARGE,), {(1,), (1, 2)}, 15),
    "beginning a rotation again": ("begin begin", (LARGE,), {(1, 2)}, 1),
    "finishing a rotation": ("begin finish", (LARGE,), {(1, 2), (2,)}, 5),
    "taking a rotation back": ("begin take-back", (LARGE,), {(1, 2), (1,)}, 5),
    "changing during a rotation": ("begin replace", (LARGE, REPLACED), {(1, 2)}, 5),
}


@pytest.mark.parametrize(("steps", "values", "epochs", "least"), KILLS.values(), ids=KILLS)
def test_101_a_kill_at_any_statement_loses_nothing(
    tmp_path: Path,
    steps: str,
    values: tuple[Values, ...],
    epochs: set[tuple[int, ...]],
    least: int,
) -> None:
    """After SIGKILL at each statement in turn, every KEK that has a wrap opens everything."""
    source = tmp_path / "source" / "keys.db"
    make(source, LARGE)
    copies = tmp_path / "copies"
    copies.mkdir()
    program = Path(__file__).with_name("killed.py")
    subprocess.run(
        [sys.executable, str(program), str(source), str(copies), *steps.split()],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        check=True,
    )
    killed = sorted(copies.iterdir(), key=lambda copy: int(copy.name))
    assert len(killed) >= least
    if least > 1:
        assert any((copy / "keys.db-journal").exists() for copy in killed)
    assert [copy.name for copy in killed if (copy / "finished").exists()] == [killed[-1].name]
    seen_epochs, seen_values = set(), []
    for copy in killed:
        found = KeyStore.epochs(copy / "keys.db")
        seen_epochs.add(found)
        seen_values += [contents(copy / "keys.db", epoch) for epoch in found]
        for epoch in {1, 2} - set(found):
            with pytest.raises(KeyStoreEpochError):
                opened(copy / "keys.db", epoch)
    assert seen_epochs == epochs
    assert all(seen in values for seen in seen_values)
    assert all(value in seen_values for value in values)


def test_101_a_rotation_killed_at_any_statement_is_simply_repeated(tmp_path: Path) -> None:
    """The device takes the step again, then the next one, whatever it finds."""
    source = tmp_path / "source" / "keys.db"
    make(source)
    copies = tmp_path / "copies"
    copies.mkdir()
    program = Path(__file__).with_name("killed.py")
    subprocess.run(
        [sys.executable, str(program), str(source), str(copies), "begin"],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        check=True,
    )
    killed = [copy / "keys.db" for copy in copies.iterdir()]
    assert len(killed) > 10
    for where in killed:
        with opened(where, 1) as store:
            store.begin_rotation(kek(2))
            store.finish_rotation(2)
        assert KeyStore.epochs(where) == (2,)
        assert contents(where, 2) == VALUES


SETTINGS = {
    "journal_mode": "delete",
    "synchronous": 3,
    "secure_delete": 1,
    "foreign_keys": 1,
    "trusted_schema": 0,
    "cell_size_check": 1,
    "temp_store": 2,
    "mmap_size": 0,
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_open_store_has_the_settings_that_durability_rests_on(path: Path, setting: str) -> None:
    """SQLite's defaults differ from build to build, so each one is set."""
    with opened(path, 1) as store:
        ((found,),) = store._database._connection.execute(f"PRAGMA {setting}")
    assert found == SETTINGS[setting]


def test_a_new_store_has_its_name_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory is synced after the file got its name, before anything relies on it."""
    done: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{handle}').readlink().name}")
        real_fsync(handle)

    def replace(source: Path, target: Path) -> Path:
        done.append(f"rename {source.name}")
        return real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    make(tmp_path / "state" / "keys.db")
    assert done == [f"sync {tmp_path.name}", "rename keys.db.new", "sync state"]


def test_101_the_journal_of_a_lost_store_is_not_rolled_into_a_new_one(path: Path) -> None:
    """A crash leaves a journal; when the store itself is gone, a new one starts clean."""
    journal = path.with_name("keys.db-journal")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA cache_size = 50")
        connection.execute("BEGIN IMMEDIATE")
        for table in ("store", "wraps", "entries"):
            connection.execute(f"DELETE FROM {table}")  # noqa: S608 - three names
        for _ in range(20):
            connection.execute(
                "INSERT INTO entries (name, version, epoch, nonce, ciphertext) "
                "VALUES ('', 1, 1, x'', zeroblob(100000))"
            )
        left_behind = journal.read_bytes()
    records = int.from_bytes(left_behind[8:12], "big")  # SQLite file format §3
    assert records >= 4
    path.unlink()
    journal.write_bytes(left_behind)
    make(path, {"name": b"value"})
    assert contents(path, 1) == {"name": b"value"}


# --- 75: a statement fails ------------------------------------------------------------------


class Failing:
    """A connection whose statement number `at` fails, before or after SQLite has run it."""

    def __init__(self, real: sqlite3.Connection, at: int, code: int, *, late: bool) -> None:
        self.real = real
        self.left = at
        self.code = code
        self.late = late

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as the connection's own
        return getattr(self.real, name)

    def execute(self, *arguments: Any) -> sqlite3.Cursor:  # noqa: ANN401 - as the connection's
        """Run a statement, or fail."""
        self.left -= 1
        if self.left != 0:
            return self.real.execute(*arguments)
        if self.late:
            self.real.execute(*arguments)
        error = sqlite3.OperationalError("injected")
        error.sqlite_errorcode = self.code
        raise error


CHANGES: dict[str, tuple[Callable[[KeyStore], object], Values]] = {
    "replacing an entry": (
        lambda store: store.put("wallet", b"new"),
        VALUES | {"wallet": b"new"},
    ),
    "adding an entry": (
        lambda store: store.put("another", b"new"),
        VALUES | {"another": b"new"},
    ),
    "deleting an entry": (
        lambda store: store.delete("wallet"),
        {name: value for name, value in VALUES.items() if name != "wallet"},
    ),
    "beginning a rotation": (lambda store: store.begin_rotation(kek(3)), VALUES),
    "finishing a rotation": (lambda store: store.finish_rotation(2), VALUES),
    "rotating": (lambda store: store.rotate(kek(3)), VALUES),
}
CODES = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_IOERR_FSYNC: "io",
}


def outcome(change: Callable[[KeyStore], object], store: KeyStore) -> str:
    """Code and reason of the error that a change ends in, or `done`."""
    try:
        change(store)
    except KeyStoreError as error:
        return f"{error.code} {error.data['reason']}"
    return "done"


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("change", "after"), CHANGES.values(), ids=CHANGES)
def test_75_a_failure_at_any_statement_is_a_typed_error_and_loses_nothing(
    tmp_path: Path, change: Callable[[KeyStore], object], after: Values, *, late: bool
) -> None:
    """A store lives on after a failure, in the state before or (a late failure) after it."""
    statements = 0
    while True:
        statements += 1
        code, reason = list(CODES.items())[statements % len(CODES)]
        where = tmp_path / str(statements) / "keys.db"
        make(where)
        with opened(where, 1) as store:
            store.begin_rotation(kek(2))
            real = store._database._connection
            store._database._connection = Failing(real, statements, code, late=late)  # type: ignore[assignment]
            said = outcome(change, store)
            store._database._connection = real
            if said == "done":
                break
            assert said == f"keystore:disk {reason}"
            found = {name: store[name] for name in store}
            assert found in (VALUES, after)
            store.put("next", b"works")
        for epoch in KeyStore.epochs(where):
            assert contents(where, epoch) == found | {"next": b"works"}
    assert statements > 4


def test_75_a_commit_that_failed_late_counts_when_it_is_in_the_file(path: Path) -> None:
    """An error after the commit point leaves no store that disagrees with its file."""
    with opened(path, 1) as store:
        real = store._database._connection
        commit = 5
        store._database._connection = Failing(real, commit, sqlite3.SQLITE_IOERR, late=True)  # type: ignore[assignment]
        with pytest.raises(KeyStoreDiskError):
            store.put("wallet", b"new")
        store._database._connection = real
        assert store["wallet"] == b"new"
        assert store.generation == len(VALUES) + 1
    assert contents(path, 1)["wallet"] == b"new"


def test_75_a_rotation_that_was_finished_after_all_cannot_be_taken_back(path: Path) -> None:
    """After a late failure the file decides which wraps there are, and the last one stays."""
    with opened(path, 1) as store:
        store.begin_rotation(kek(2))
        real = store._database._connection
        commit = 5
        store._database._connection = Failing(real, commit, sqlite3.SQLITE_IOERR, late=True)  # type: ignore[assignment]
        with pytest.raises(KeyStoreDiskError):
            store.finish_rotation(2)
        store._database._connection = real
        with pytest.raises(KeyStoreEpochError) as refused:
            store.finish_rotation(1)
        assert refused.value.data["present"] == "2"
        assert store.epoch == 2
        store.finish_rotation(2)
    assert contents(path, 2) == VALUES


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes, as a full disk would not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_75_a_disk_that_takes_no_more_loses_nothing(path: Path) -> None:
    """The change that did not fit is an error; everything else is there and goes on."""
    size = path.stat().st_size
    with opened(path, 1) as store:
        for large in (100_000, 1 << 20):
            with largest_file(size), pytest.raises(KeyStoreDiskError) as refused:
                store.put("large", bytes(large))
            assert refused.value.code == "keystore:disk"
        assert {name: store[name] for name in store} == VALUES
        store.put("small", b"fits")
    assert contents(path, 1) == VALUES | {"small": b"fits"}


def test_75_a_rotation_that_does_not_fit_leaves_the_old_epoch(tmp_path: Path) -> None:
    """The journal needs room too; without it, nothing has happened."""
    where = tmp_path / "keys.db"
    make(where, LARGE)
    with opened(where, 1) as store:
        with largest_file(1 << 20), pytest.raises(KeyStoreDiskError) as refused:
            store.begin_rotation(kek(2))
        assert refused.value.code == "keystore:disk"
    assert KeyStore.epochs(where) == (1,)
    assert contents(where, 1) == LARGE
    with opened(where, 1) as store:
        store.rotate(kek(2))
    assert contents(where, 2) == LARGE


def test_75_creating_on_a_full_disk_leaves_nothing_half_made(tmp_path: Path) -> None:
    """The next try is as the first."""
    where = tmp_path / "keys.db"
    with largest_file(4096), pytest.raises(KeyStoreDiskError) as refused:
        KeyStore.create(where, kek(1), device=DEVICE)
    assert refused.value.code == "keystore:disk"
    assert {file.name for file in tmp_path.iterdir()} == {"keys.db.lock"}
    make(where)
    assert contents(where, 1) == VALUES


def test_75_a_store_does_not_grow_beyond_its_limit(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be opened again is not written."""
    monkeypatch.setattr(database, "MAX_FILE_SIZE", 64 << 10)
    with opened(path, 1) as store:
        with pytest.raises(KeyStoreDiskError) as refused:
            store.put("large", bytes(100_000))
        assert refused.value.data["reason"] == "full"
        store.put("small", b"fits")
    assert contents(path, 1) == VALUES | {"small": b"fits"}


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A directory of an ordinary user, which this process then is: root may write anywhere."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        if os.geteuid() != 0:
            yield directory
            directory.chmod(0o700)
            return
        os.chown(directory, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            if not os.access(directory, os.W_OK, effective_ids=True):
                pytest.skip("the directory for temporary files is closed to ordinary users")
            yield directory
            directory.chmod(0o700)
        finally:
            os.seteuid(0)


def test_75_a_directory_that_became_read_only_loses_nothing(unprivileged: Path) -> None:
    """Reading goes on; every change is refused, whole."""
    where = unprivileged / "keys.db"
    make(where)
    unprivileged.chmod(0o500)
    with opened(where, 1) as store:
        assert store["wallet"] == VALUES["wallet"]
        changes: tuple[Callable[[], object], ...] = (
            lambda: store.put("wallet", b"new"),
            lambda: store.delete("wallet"),
            lambda: store.begin_rotation(kek(2)),
        )
        for change in changes:
            with pytest.raises(KeyStoreDiskError) as refused:
                change()
            assert refused.value.code == "keystore:disk"
            assert refused.value.data["reason"] == "read-only"
        assert {name: store[name] for name in store} == VALUES
    unprivileged.chmod(0o700)
    assert contents(where, 1) == VALUES


def test_75_nothing_is_made_in_a_directory_that_is_read_only(unprivileged: Path) -> None:
    """Creating says what is wrong and leaves nothing."""
    unprivileged.chmod(0o500)
    with pytest.raises(KeyStoreError) as refused:
        KeyStore.create(unprivileged / "keys.db", kek(1), device=DEVICE)
    assert refused.value.code == "keystore:permission"
    assert list(unprivileged.iterdir()) == []


def test_75_a_file_that_is_read_only_is_read(unprivileged: Path) -> None:
    """Values can be used; changes are refused."""
    where = unprivileged / "keys.db"
    make(where)
    where.chmod(0o400)
    with opened(where, 1) as store:
        assert store["wallet"] == VALUES["wallet"]
        with pytest.raises(KeyStoreDiskError) as refused:
            store.put("wallet", b"new")
        assert refused.value.data["reason"] == "read-only"
    assert contents(where, 1) == VALUES
