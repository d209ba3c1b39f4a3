"""Line 102 of the list of adversaries: a key store within reach of others is not used."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import KeyStorePermissionError
from hwtrust.keys import KeyStore, database
from unit.keys.stores import DEVICE, VALUES, contents, kek, make, opened, refusal

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a key store of epoch 1 with VALUES is, closed."""
    where = tmp_path / "keys.db"
    make(where)
    return where


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o666, 0o777])
def test_102_a_store_that_others_may_use_is_refused(path: Path, mode: int) -> None:
    """A key store that was readable once has to be looked at by somebody."""
    path.chmod(mode)
    for attempt in (lambda: opened(path, 1), lambda: KeyStore.epochs(path)):
        with pytest.raises(KeyStorePermissionError) as refused:
            attempt()
        assert refused.value.code == "keystore:permission"
        assert refused.value.data["mode"] == mode
    path.chmod(0o600)
    assert contents(path, 1) == VALUES


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777, 0o720])
def test_102_a_directory_that_others_can_write_is_refused(path: Path, mode: int) -> None:
    """Who can write the directory can replace the file, its lock and its journal."""
    path.parent.chmod(mode)
    for attempt in (
        lambda: opened(path, 1),
        lambda: KeyStore.epochs(path),
        lambda: KeyStore.create(path.with_name("new.db"), kek(1), device=DEVICE),
    ):
        with pytest.raises(KeyStorePermissionError) as refused:
            attempt()
        assert refused.value.code == "keystore:permission"
    path.parent.chmod(0o755)
    assert contents(path, 1) == VALUES


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_102_a_store_of_another_user_is_refused(path: Path) -> None:
    """Root does not read what somebody else prepared."""
    os.chown(path, 65534, 65534)
    assert refusal(path).code == "keystore:permission"
    os.chown(path, 0, 0)
    os.chown(path.parent, 65534, 65534)
    assert refusal(path).code == "keystore:permission"


def test_102_sqlite_never_makes_the_file_itself(path: Path) -> None:
    """A file that vanishes between the check and the opening does not come back, open to others."""
    vanished = path.with_name("vanished.db")
    with pytest.raises(sqlite3.OperationalError):
        database._connect(vanished)
    assert not vanished.exists()


def linked(path: Path) -> None:
    """Put a symbolic link in the store's place."""
    path.rename(path.with_name("elsewhere.db"))
    path.symlink_to(path.with_name("elsewhere.db"))


def piped(path: Path) -> None:
    """Put a FIFO in the store's place."""
    path.unlink()
    os.mkfifo(path, 0o600)


def nested(path: Path) -> None:
    """Put a directory in the store's place."""
    path.unlink()
    path.mkdir(0o700)


PLACEHOLDERS = {"a symbolic link": linked, "a FIFO": piped, "a directory": nested}


@pytest.mark.parametrize("replace", PLACEHOLDERS.values(), ids=PLACEHOLDERS)
def test_102_what_is_no_regular_file_is_refused(
    path: Path, replace: Callable[[Path], None]
) -> None:
    """A link leads elsewhere, and a FIFO would wait for ever."""
    replace(path)
    assert refusal(path).code == "keystore:permission"
    with pytest.raises(KeyStorePermissionError):
        KeyStore.epochs(path)


def test_102_a_lock_file_that_is_a_link_is_refused(path: Path) -> None:
    """Locking does not create or open files elsewhere."""
    lock = path.with_name("keys.db.lock")
    lock.unlink()
    lock.symlink_to(path.with_name("elsewhere"))
    assert refusal(path).code == "keystore:permission"
    assert not path.with_name("elsewhere").exists()


def test_102_every_file_is_private_from_its_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the umask is, no file of the store was ever open to others."""
    seen: dict[str, set[int]] = {}

    def look(_statement: str = "") -> None:
        for file in where.parent.iterdir():
            seen.setdefault(file.name, set()).add(file.stat().st_mode & 0o777)

    def connect(*args: object, **kwargs: object) -> sqlite3.Connection:
        look()
        connection: sqlite3.Connection = real(*args, **kwargs)  # type: ignore[call-overload]
        connection.set_trace_callback(look)
        return connection

    where = tmp_path / "private" / "keys.db"
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", connect)
    before = os.umask(0)
    try:
        make(where)
        with opened(where, 1) as store:
            store.rotate(kek(2))
    finally:
        os.umask(before)
    assert seen.keys() == {
        "keys.db",
        "keys.db-journal",
        "keys.db.lock",
        "keys.db.new",
        "keys.db.new-journal",
    }
    assert set().union(*seen.values()) == {0o600}
    assert where.parent.stat().st_mode & 0o777 == 0o700
