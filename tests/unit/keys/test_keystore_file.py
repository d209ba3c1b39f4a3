"""What is tried against the key store's file: line 101 of the list of adversaries."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import (
    HwTrustError,
    KeyStoreBusyError,
    KeyStoreDamagedError,
    KeyStoreEpochError,
)
from hwtrust.files import FileLock
from hwtrust.keys import Kek, KeyStore, database
from hwtrust.keys.database import Database
from hwtrust.keys.kek import Secret
from unit.keys.stores import DEVICE, VALUES, contents, kek, make, opened, refusal, tamper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a key store of epoch 1 with VALUES is, closed."""
    where = tmp_path / "keys.db"
    make(where)
    return where


# --- 101: truncated, bit-flipped, replaced by an older copy, opened twice --------------


def test_101_a_truncated_file_is_refused_at_every_length(path: Path) -> None:
    """No part of a store passes for the store."""
    whole = path.read_bytes()
    lengths = sorted({*range(128), *range(128, len(whole), 61), len(whole) - 1})
    assert len(lengths) > 300
    for length in lengths:
        path.write_bytes(whole[:length])
        assert refusal(path).code == "keystore:damaged", length
    path.write_bytes(whole)
    assert contents(path, 1) == VALUES


def outcome(path: Path) -> dict[str, bytes] | str:
    """All that the store holds, or the code of the error that opening or reading ends in."""
    try:
        return contents(path, 1)
    except HwTrustError as error:
        return error.code


def flips(path: Path, offsets: Iterable[int], *, mask: int) -> tuple[int, int]:
    """Flip bytes of the file one at a time; how many were refused, and how many harmless."""
    whole = path.read_bytes()
    refused = harmless = 0
    for offset in offsets:
        changed = bytearray(whole)
        changed[offset] ^= mask
        path.write_bytes(changed)
        found = outcome(path)
        if isinstance(found, str):
            assert found in {"keystore:damaged", "keystore:epoch:mismatch"}, offset
            refused += 1
        else:
            assert found == VALUES, offset
            harmless += 1
    path.write_bytes(whole)
    return refused, harmless


def test_101_every_flipped_byte_is_refused_or_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flipped byte never gives a wrong value, a missing entry or a foreign exception.

    Pages of 512 bytes leave little room unused, so that most bytes count.
    """
    monkeypatch.setattr(database, "_PAGE_SIZE", 512)
    where = tmp_path / "keys.db"
    make(where)
    size = where.stat().st_size
    assert 2000 < size < 5000
    refused, harmless = flips(where, range(size), mask=0xFF)
    assert refused + harmless == size
    assert refused > 800


def test_101_every_flipped_bit_in_use_is_refused_or_harmless(path: Path) -> None:
    """The same with pages of the usual size, for every byte that is not zero, and a single bit."""
    used = [offset for offset, byte in enumerate(path.read_bytes()) if byte]
    assert len(used) > 800
    refused, harmless = flips(path, used, mask=0x01)
    assert refused > harmless > 0


def test_101_an_older_copy_does_not_open_after_a_rotation(path: Path) -> None:
    """With the epoch, every copy of the file made in it has ended."""
    old = path.read_bytes()
    with opened(path, 1) as store:
        store.rotate(kek(2))
    path.write_bytes(old)
    error = refusal(path, 2)
    assert type(error) is KeyStoreEpochError
    assert error.code == "keystore:epoch:mismatch"
    assert error.data["present"] == "1"


def test_101_an_older_copy_of_the_same_epoch_has_an_older_generation(path: Path) -> None:
    """The documented limit: such a copy opens, and only its generation tells."""
    old = path.read_bytes()
    with opened(path, 1) as store:
        store.put("wallet", b"newer")
        newest = store.generation
    path.write_bytes(old)
    with opened(path, 1) as store:
        assert store["wallet"] == VALUES["wallet"]
        assert store.generation < newest


def test_101_a_copy_put_back_under_an_open_store_is_refused(path: Path) -> None:
    """What is in memory counts: an open store does not follow the file into the past."""
    old = path.read_bytes()
    with opened(path, 1) as store:
        store.put("wallet", b"newer")
        path.write_bytes(old)
        attempts: tuple[Callable[[], object], ...] = (
            lambda: store["wallet"],
            lambda: store.put("other", b"value"),
            lambda: store.put("other", b"value"),
            lambda: store.delete("wallet"),
            lambda: store.begin_rotation(kek(2)),
        )
        for attempt in attempts:
            with pytest.raises(KeyStoreDamagedError) as refused:
                attempt()
            assert refused.value.code == "keystore:damaged"
    assert path.read_bytes() == old


def test_101_a_row_changed_under_an_open_store_is_refused(path: Path) -> None:
    """A ciphertext that differs from the authenticated list is not even decrypted."""
    with opened(path, 1) as store:
        tamper(path, "UPDATE entries SET ciphertext = zeroblob(40) WHERE name = 'wallet'")
        tamper(path, "DELETE FROM entries WHERE name = 'payments/pin'")
        for name in ("wallet", "payments/pin"):
            with pytest.raises(KeyStoreDamagedError) as refused:
                store[name]
            assert refused.value.data["reason"] == "entry"
        assert store["payments/transport"] == VALUES["payments/transport"]
        for _ in range(2):
            with pytest.raises(KeyStoreDamagedError) as refused:
                store.delete("payments/pin")
            assert refused.value.code == "keystore:damaged"


def test_101_a_store_is_opened_once_in_a_process(path: Path) -> None:
    """Two openers would each believe their own list."""
    with opened(path, 1) as store:
        assert type(refusal(path)) is KeyStoreBusyError
        assert refusal(path).code == "keystore:busy"
        store.put("wallet", b"still works")
    assert contents(path, 1)["wallet"] == b"still works"


def test_101_a_store_is_opened_once_on_a_machine(path: Path) -> None:
    """Another process is refused while the store is open, and served afterwards."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from unit.keys.stores import opened\n"
        "from hwtrust.errors import HwTrustError\n"
        "try:\n"
        "    opened(Path(sys.argv[1]), 1).close()\n"
        "except HwTrustError as error:\n"
        "    print(error.code)\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with opened(path, 1):
        said = subprocess.check_output(command, env=environment, text=True)
        assert said == "keystore:busy\n"
    assert subprocess.check_output(command, env=environment, text=True) == ""


def test_101_two_creations_cannot_run_at_once(tmp_path: Path) -> None:
    """The lock is taken before the file is made."""
    where = tmp_path / "keys.db"
    lock = FileLock(where.with_name("keys.db.lock"))
    with lock, pytest.raises(KeyStoreBusyError) as refused:
        KeyStore.create(where, kek(1), device=DEVICE)
    assert refused.value.code == "keystore:busy"
    assert not where.exists()


# --- 101: what is no key store, or not this one ----------------------------------------


def respelt(old: bytes, new: bytes) -> Callable[[Path], None]:
    """Replace bytes of the file by as many others."""

    def change(path: Path) -> None:
        whole = path.read_bytes()
        assert whole.count(old) == 1
        assert len(old) == len(new)
        path.write_bytes(whole.replace(old, new))

    return change


def planted(statement: str) -> Callable[[Path], None]:
    """Run one SQL statement on the store."""
    return lambda path: tamper(path, statement)


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "an empty file": (lambda path: path.write_bytes(b""), "application-id"),
    "a text": (lambda path: path.write_text("no database\n" * 200), "not-a-database"),
    "zeros": (lambda path: path.write_bytes(bytes(8192)), "not-a-database"),
    "another program's database": (planted("PRAGMA application_id = 1"), "application-id"),
    "a newer format": (planted("PRAGMA user_version = 2"), "version"),
    "format 0": (planted("PRAGMA user_version = 0"), "version"),
    "a planted trigger": (
        planted(
            "CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries; END",
        ),
        "schema",
    ),
    "a planted view": (planted("CREATE VIEW v AS SELECT 1"), "schema"),
    "a planted index": (planted("CREATE INDEX i ON entries (name)"), "schema"),
    "a planted table": (planted("CREATE TABLE t (x)"), "schema"),
    "a table by another name": (respelt(b"tablewrapswraps", b"tablewarpswarps"), "corrupt"),
    "a table whose name is no UTF-8": (
        respelt(b"tablewrapswraps", b"tablewr\x8cpswraps"),
        "corrupt",
    ),
    "a table whose name is an escape sequence": (
        respelt(b"tablewrapswraps", b"table\x1b[31mwraps"),
        "corrupt",
    ),
    "a table less": (planted("DROP TABLE entries"), "schema"),
    "a column more": (planted("ALTER TABLE entries ADD COLUMN x TEXT"), "schema"),
    "no header": (planted("DELETE FROM store"), "row"),
    "a negative version": (planted("UPDATE entries SET version = -1"), "row"),
    "a negative generation": (planted("UPDATE store SET generation = -1"), "row"),
    "an older generation": (planted("UPDATE store SET generation = generation - 1"), "seal"),
    "a lower floor": (planted("UPDATE store SET floor = floor + 1"), "seal"),
    "an empty seal": (planted("UPDATE store SET seal = x''"), "seal"),
    "another store's id": (planted("UPDATE store SET store_id = zeroblob(16)"), "wrap"),
    "an empty nonce": (planted("UPDATE wraps SET nonce = x''"), "wrap"),
    "an empty wrap": (planted("UPDATE wraps SET ciphertext = x''"), "wrap"),
    "a wrap for another epoch added": (
        planted("INSERT INTO wraps SELECT 2, nonce, ciphertext FROM wraps"),
        "seal",
    ),
    "a ciphertext of three mebibytes": (
        planted("UPDATE entries SET ciphertext = zeroblob(3 << 20)"),
        "corrupt",
    ),
    "a file of a gibibyte": (lambda path: os.truncate(path, 1 << 30), "size"),
}


@pytest.mark.parametrize(("change", "reason"), FOREIGN.values(), ids=FOREIGN)
def test_101_what_hwtrust_did_not_write_is_refused(
    path: Path, change: Callable[[Path], object], reason: str
) -> None:
    """Each has its reason, and none is taken for an empty store."""
    change(path)
    error = refusal(path)
    assert type(error) is KeyStoreDamagedError
    assert error.code == "keystore:damaged"
    assert error.data["reason"] == reason
    assert error.data["path"] == str(path)
    assert error.message.isprintable()


LOOSE = """
CREATE TABLE store (store_id, generation, floor, seal);
CREATE TABLE wraps (epoch, nonce, ciphertext);
CREATE TABLE entries (id, name, version, epoch, nonce, ciphertext);
INSERT INTO store VALUES (x'00', 'one', 0, x'00');
INSERT INTO wraps VALUES (NULL, x'00', x'00');
INSERT INTO entries VALUES (1, 'name', 1, 1, x'00', 'text');
"""
READINGS: dict[str, Callable[[Database], object]] = {
    "the header": Database.header,
    "the epochs": Database.epochs,
    "the wraps": Database.wraps,
    "the entries": lambda place: list(place.entries()),
    "a ciphertext": lambda place: place.ciphertext(1),
}


@pytest.mark.parametrize("read", READINGS.values(), ids=READINGS)
def test_101_a_value_of_another_type_is_refused(
    tmp_path: Path, read: Callable[[Database], object]
) -> None:
    """What comes from a row is checked, whatever SQLite lets a column hold."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(LOOSE)
        with pytest.raises(KeyStoreDamagedError) as refused:
            read(Database(tmp_path, connection))
    assert refused.value.data["reason"] == "row"


STRUCTURAL = {"application-id", "not-a-database", "version", "schema", "size"}
KEYLESS = {name: case for name, case in FOREIGN.items() if case[1] in STRUCTURAL}


@pytest.mark.parametrize(("change", "reason"), KEYLESS.values(), ids=KEYLESS)
def test_101_the_epochs_of_what_is_no_key_store_are_not_read(
    path: Path, change: Callable[[Path], object], reason: str
) -> None:
    """Without a key, what can be checked is checked."""
    change(path)
    with pytest.raises(KeyStoreDamagedError) as refused:
        KeyStore.epochs(path)
    assert refused.value.data["reason"] == reason


def test_101_a_page_that_is_in_use_and_free_is_refused(path: Path) -> None:
    """Every entry could still be read, but the next change would overwrite some of them."""
    with opened(path, 1) as store:
        store.put("large", bytes(100_000))
        store.delete("large")
    with closing(sqlite3.connect(path)) as connection:
        ((in_use,),) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'entries'"
        )
        ((size,),) = connection.execute("PRAGMA page_size")
    changed = bytearray(path.read_bytes())
    free = int.from_bytes(changed[32:36], "big")  # SQLite file format §1.5: first trunk page
    assert int.from_bytes(changed[36:40], "big") > 10
    leaf = (free - 1) * size + 8
    changed[leaf : leaf + 4] = in_use.to_bytes(4, "big")
    path.write_bytes(changed)
    assert refusal(path).data["reason"] == "corrupt"


def test_101_a_store_left_in_wal_mode_goes_back_to_a_journal(path: Path) -> None:
    """No write-ahead log stays, in which old wraps would linger."""
    tamper(path, "PRAGMA journal_mode = WAL")
    with opened(path, 1) as store:
        store.rotate(kek(2))
    assert contents(path, 2) == VALUES
    assert path.read_bytes()[18:20] == b"\x01\x01"
    assert {file.name for file in path.parent.iterdir()} == {"keys.db", "keys.db.lock"}


STRANGERS: dict[str, tuple[Callable[[], Kek], bytes]] = {
    "another root of the same epoch": (lambda: kek(1, issue="other"), DEVICE),
    "the KEK of another device": (lambda: kek(1, device=b"other"), DEVICE),
    "the KEK with another device's name": (lambda: kek(1), b"other"),
}


@pytest.mark.parametrize(("key", "device"), STRANGERS.values(), ids=STRANGERS)
def test_101_a_store_opens_for_its_own_root_and_device_only(
    path: Path, key: Callable[[], Kek], device: bytes
) -> None:
    """The device is in the KEK, and again in what the wrap is bound to."""
    with pytest.raises(KeyStoreDamagedError) as refused:
        KeyStore.open(path, key(), device=device)
    assert refused.value.code == "keystore:damaged"
    assert refused.value.data["reason"] == "wrap"


def test_101_a_wrap_moved_to_another_epoch_does_not_open(path: Path) -> None:
    """The epoch of a wrap is bound to it, whatever number its row has."""
    tamper(path, "UPDATE wraps SET epoch = 2")
    same_key = Kek(Secret(kek(1)._secret.reveal()), epoch=2)
    with pytest.raises(KeyStoreDamagedError) as refused:
        KeyStore.open(path, same_key, device=DEVICE)
    assert refused.value.data["reason"] == "wrap"
