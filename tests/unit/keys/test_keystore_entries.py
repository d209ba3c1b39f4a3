"""Line 103 of the list of adversaries: entries swapped, added, removed or put back."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hwtrust.errors import KeyStoreDamagedError
from hwtrust.keys.contents import Contents, Entry, Held, _wrap_context
from hwtrust.keys.database import Database
from unit.keys.stores import DEVICE, VALUES, contents, kek, make, opened, refusal, tamper


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a key store of epoch 1 with VALUES is, closed."""
    where = tmp_path / "keys.db"
    make(where)
    return where


SWAP = (
    "UPDATE entries SET {what} = CASE name "
    "WHEN 'wallet' THEN (SELECT {what} FROM entries WHERE name = 'payments/pin') "
    "ELSE (SELECT {what} FROM entries WHERE name = 'wallet') END "
    "WHERE name IN ('wallet', 'payments/pin')"
)
EDITS: dict[str, tuple[str, ...]] = {
    "two names swapped": (
        "UPDATE entries SET name = 'x' WHERE name = 'wallet'",
        "UPDATE entries SET name = 'wallet' WHERE name = 'payments/pin'",
        "UPDATE entries SET name = 'payments/pin' WHERE name = 'x'",
    ),
    "an entry renamed": ("UPDATE entries SET name = 'walled' WHERE name = 'wallet'",),
    "an entry deleted": ("DELETE FROM entries WHERE name = 'wallet'",),
    "all entries deleted": ("DELETE FROM entries",),
    "an entry copied to a new name": (
        (
            "INSERT INTO entries (name, version, epoch, nonce, ciphertext) "
            "SELECT 'copy', version, epoch, nonce, ciphertext FROM entries WHERE name = 'wallet'"
        ),
    ),
    "an entry duplicated": (
        (
            "INSERT INTO entries (name, version, epoch, nonce, ciphertext) "
            "SELECT name, version, epoch, nonce, ciphertext FROM entries WHERE name = 'wallet'"
        ),
    ),
    "a ciphertext cut short": (
        "UPDATE entries SET ciphertext = substr(ciphertext, 1, 20) WHERE name = 'wallet'",
    ),
    "a version raised": ("UPDATE entries SET version = 7 WHERE name = 'wallet'",),
    "an epoch raised": ("UPDATE entries SET epoch = 7 WHERE name = 'wallet'",),
    "two ciphertexts swapped": (SWAP.format(what="ciphertext"),),
    "two nonces swapped": (SWAP.format(what="nonce"),),
}


@pytest.mark.parametrize("statements", EDITS.values(), ids=EDITS)
def test_103_an_entry_that_was_moved_or_changed_is_noticed(
    path: Path, statements: tuple[str, ...]
) -> None:
    """The seal covers the list of entries: the store does not open."""
    tamper(path, *statements)
    error = refusal(path)
    assert error.code == "keystore:damaged"
    assert error.data["reason"] in {"seal", "entry"}


def test_103_an_entry_put_back_in_an_older_version_is_noticed(path: Path) -> None:
    """A genuine row of this very name does not come back after it was replaced."""
    with closing(sqlite3.connect(path)) as connection:
        old = connection.execute(
            "SELECT version, epoch, nonce, ciphertext FROM entries WHERE name = 'wallet'"
        ).fetchone()
    with opened(path, 1) as store:
        store.put("wallet", b"newer")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "UPDATE entries SET version = ?, epoch = ?, nonce = ?, ciphertext = ? "
            "WHERE name = 'wallet'",
            old,
        )
        connection.commit()
    assert refusal(path).data["reason"] == "seal"


def test_103_a_deleted_entry_does_not_come_back(path: Path) -> None:
    """A genuine row that was deleted is not part of the list any more."""
    with closing(sqlite3.connect(path)) as connection:
        old = connection.execute("SELECT * FROM entries WHERE name = 'wallet'").fetchone()
    with opened(path, 1) as store:
        store.delete("wallet")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", old)
        connection.commit()
    assert refusal(path).data["reason"] == "seal"


def test_103_a_dropped_wrap_does_not_come_back(path: Path) -> None:
    """Who kept the old wrap and the old KEK cannot make the new file open with them."""
    with closing(sqlite3.connect(path)) as connection:
        old = connection.execute("SELECT * FROM wraps").fetchone()
    with opened(path, 1) as store:
        store.rotate(kek(2))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO wraps VALUES (?, ?, ?)", old)
        connection.commit()
    assert refusal(path, 1).data["reason"] == "seal"
    assert refusal(path, 2).data["reason"] == "seal"


def reseal(path: Path, *statements: str) -> None:
    """Change the file as `tamper` does, and seal it anew with the data key.

    This is more than an outsider can do. It shows what holds without the seal.
    """
    tamper(path, *statements)
    with closing(Database.open(path)) as place:
        header, wraps = place.header(), place.wraps()
        context = _wrap_context(header.store_id, DEVICE, 1)
        data_key = kek(1).unwrap(wraps[1], context=context)
        held = Contents(header.store_id, DEVICE, data_key, header.generation, header.floor, wraps)
        for row in place.entries():
            held._add(row)
        with place.transaction():
            place.write_header(held.header())


BOUND: dict[str, tuple[str, ...]] = {
    name: EDITS[name]
    for name in ("two names swapped", "an entry renamed", "a version raised", "an epoch raised")
}


@pytest.mark.parametrize("statements", BOUND.values(), ids=BOUND)
def test_103_a_ciphertext_decrypts_in_its_own_place_only(
    path: Path, statements: tuple[str, ...]
) -> None:
    """Even under a good seal, a value answers to its own name, version and epoch only."""
    reseal(path, *statements)
    with opened(path, 1) as store:
        changed = [name for name in store if name.startswith("wal")]
        assert changed
        for name in changed:
            with pytest.raises(KeyStoreDamagedError) as refused:
                store[name]
            assert refused.value.data["reason"] == "entry"
        assert store["payments/transport"] == VALUES["payments/transport"]


def test_103_an_entry_of_another_store_is_refused(path: Path) -> None:
    """The same name, version, epoch and KEK in another store are another place."""
    other = path.with_name("other.db")
    make(other)
    shutil.copy(other, path.with_name("copy.db"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ATTACH ? AS other", (str(other),))
        connection.execute("DELETE FROM wraps")
        connection.execute("INSERT INTO wraps SELECT * FROM other.wraps")
        connection.commit()
    assert refusal(path).data["reason"] == "wrap"
    assert contents(path.with_name("copy.db"), 1) == VALUES


def test_a_resealed_store_without_changes_opens(path: Path) -> None:
    """The counter-check: sealing anew is not what the tests above see refused."""
    reseal(path)
    assert contents(path, 1) == VALUES


def test_103_a_value_is_believed_only_when_the_seal_names_its_ciphertext() -> None:
    """A second ciphertext for the same place, made with the same key, is still another one."""
    held = Contents.fresh(kek(1), device=DEVICE)
    entry = Entry("name", 1, 1, 5)
    first, second = held.encrypt(entry, b"first"), held.encrypt(entry, b"other")
    known = Held(1, entry, first.digest)
    assert held.decrypt(known, first) == b"first"
    with pytest.raises(KeyStoreDamagedError) as refused:
        held.decrypt(known, second)
    assert refused.value.data["reason"] == "entry"
