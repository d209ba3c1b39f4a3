"""A rotation moves the store from one dynamic root to the next, and leaves nothing to the old."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import KeyStoreDamagedError, KeyStoreEpochError, KeyStoreLockedError
from hwtrust.keys import KeyStore
from unit.keys.stores import DEVICE, VALUES, contents, kek, make, opened

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a key store of epoch 1 with VALUES is, closed."""
    where = tmp_path / "keys.db"
    make(where)
    return where


def wraps(path: Path) -> dict[int, bytes]:
    """The wrapped data key by epoch, from the file."""
    with closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT epoch, ciphertext FROM wraps"))


def ciphertexts(path: Path) -> set[bytes]:
    """The ciphertexts of all entries, from the file."""
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT ciphertext FROM entries")}


def test_between_the_halves_of_a_rotation_both_epochs_open(path: Path) -> None:
    """Whichever side of the counter's increment a power cut falls on, nothing is lost."""
    with opened(path, 1) as store:
        store.begin_rotation(kek(2))
        assert {name: store[name] for name in store} == VALUES
    assert KeyStore.epochs(path) == (1, 2)
    assert contents(path, 1) == VALUES
    assert contents(path, 2) == VALUES


def test_after_a_rotation_the_old_epoch_opens_nothing(path: Path) -> None:
    """The end of a rotation is the end of the old root."""
    with opened(path, 1) as store:
        store.begin_rotation(kek(2))
        store.finish_rotation(2)
        assert store.epoch == 2
        assert {name: store[name] for name in store} == VALUES
    assert KeyStore.epochs(path) == (2,)
    assert contents(path, 2) == VALUES
    with pytest.raises(KeyStoreEpochError) as refused:
        opened(path, 1)
    assert refused.value.code == "keystore:epoch:mismatch"
    assert refused.value.data["epoch"] == 1
    assert refused.value.data["present"] == "2"


def test_a_rotation_replaces_data_key_and_every_ciphertext(path: Path) -> None:
    """Who learned the old data key reads nothing that is in the file now."""
    before = ciphertexts(path)
    with opened(path, 1) as store:
        assert store._contents
        old = store._contents.data_key
        store.begin_rotation(kek(2))
        assert old._root.erased
        assert store._contents.data_key is not old
    after = ciphertexts(path)
    assert len(after) == len(VALUES)
    assert before.isdisjoint(after)


def test_after_a_rotation_the_file_holds_nothing_of_the_old_epoch(path: Path) -> None:
    """Old wraps and ciphertexts are overwritten, not only unlinked (secure_delete)."""
    make(path.with_name("large.db"), VALUES | {"large": bytes(300_000)})
    for where in (path, path.with_name("large.db")):
        with opened(where, 1) as store:
            first = wraps(where)
            gone = ciphertexts(where)
            store.begin_rotation(kek(2))
            middle = wraps(where)
            store.finish_rotation(2)
        bytes_now = where.read_bytes()
        assert first.keys() == {1}
        assert middle.keys() == {1, 2}
        assert first[1] != middle[1]
        for old in (first[1], middle[1], *gone):
            assert old[:32] not in bytes_now
            assert old[-32:] not in bytes_now
        assert middle[2] in bytes_now


def test_beginning_again_with_the_same_root_changes_nothing(path: Path) -> None:
    """After a crash the device simply repeats the step."""
    with opened(path, 1) as store:
        store.begin_rotation(kek(2))
    before = path.read_bytes()
    with opened(path, 1) as store:
        store.begin_rotation(kek(2))
        store.begin_rotation(kek(2))
    assert path.read_bytes() == before
    with opened(path, 1) as store:
        store.begin_rotation(kek(2))
        store.finish_rotation(2)
    assert contents(path, 2) == VALUES


def test_a_root_issued_anew_takes_the_place_of_the_first(path: Path) -> None:
    """The backend may make root E+1 again; the one that was not used opens nothing."""
    with opened(path, 1) as store:
        store.begin_rotation(kek(2, issue="first"))
    with opened(path, 1) as store:
        store.begin_rotation(kek(2))
    assert contents(path, 1) == VALUES
    assert contents(path, 2) == VALUES
    with pytest.raises(KeyStoreDamagedError) as refused:
        KeyStore.open(path, kek(2, issue="first"), device=DEVICE)
    assert refused.value.data["reason"] == "wrap"


def test_a_rotation_begun_for_another_epoch_drops_the_one_before(path: Path) -> None:
    """There are never more than two wraps, and both are of the current data key."""
    with opened(path, 1) as store:
        store.begin_rotation(kek(2))
        store.begin_rotation(kek(3))
        assert KeyStore.epochs(path) == (1, 3)
        with pytest.raises(KeyStoreEpochError) as refused:
            store.finish_rotation(2)
        assert refused.value.code == "keystore:epoch:mismatch"
        store.finish_rotation(3)
    assert contents(path, 3) == VALUES


def test_finishing_again_changes_nothing(path: Path) -> None:
    """The last step can be repeated as well."""
    with opened(path, 1) as store:
        store.rotate(kek(2))
    before = path.read_bytes()
    with opened(path, 2) as store:
        store.finish_rotation(2)
        store.finish_rotation(2)
    assert path.read_bytes() == before


def test_a_rotation_can_be_taken_back(path: Path) -> None:
    """As long as the counter has not moved, the old epoch may stay the only one."""
    with opened(path, 1) as store:
        store.begin_rotation(kek(2))
        store.finish_rotation(1)
        store.put("after", b"value")
    assert KeyStore.epochs(path) == (1,)
    assert contents(path, 1) == VALUES | {"after": b"value"}
    with opened(path, 1) as store:
        store.rotate(kek(2))
    assert contents(path, 2) == VALUES | {"after": b"value"}


def test_no_wrap_is_dropped_for_one_that_was_never_opened(path: Path) -> None:
    """A device cannot lock itself out by naming an epoch."""
    with opened(path, 1) as store:
        store.begin_rotation(kek(2))
    with opened(path, 1) as store:
        for epoch in (2, 3):
            with pytest.raises(KeyStoreEpochError) as refused:
                store.finish_rotation(epoch)
            assert refused.value.code == "keystore:epoch:mismatch"
            assert refused.value.data["epoch"] == epoch
    assert KeyStore.epochs(path) == (1, 2)


def test_an_epoch_never_goes_back(path: Path) -> None:
    """A root of the same or an older number is no next root."""
    make(path.with_name("five.db"), epoch=5)
    with opened(path.with_name("five.db"), 5) as store:
        for epoch in (5, 4, 0):
            with pytest.raises(KeyStoreEpochError) as refused:
                store.begin_rotation(kek(epoch))
            assert refused.value.code == "keystore:epoch:mismatch"
            assert refused.value.data == {"epoch": epoch, "current": 5}
        assert store.generation == len(VALUES)


def test_an_erased_kek_begins_nothing(path: Path) -> None:
    """The store is not wrapped under an empty key."""
    erased = kek(2)
    erased.erase()
    with opened(path, 1) as store:
        with pytest.raises(KeyStoreLockedError) as refused:
            store.begin_rotation(erased)
        assert refused.value.code == "keystore:locked"
    assert KeyStore.epochs(path) == (1,)


def test_entries_say_under_which_epoch_they_were_written(path: Path) -> None:
    """A rotation rewrites all of them, and keeps their versions."""
    with opened(path, 1) as store:
        store.put("wallet", VALUES["wallet"])
        store.begin_rotation(kek(2))
        store.put("during", b"value")
        assert {entry.epoch for entry in store.list()} == {2}
        store.finish_rotation(2)
        store.rotate(kek(9))
        assert {(entry.name, entry.version, entry.epoch) for entry in store.list()} == {
            ("during", 1, 9),
            ("payments/pin", 1, 9),
            ("payments/transport", 1, 9),
            ("wallet", 2, 9),
        }


def test_changes_during_a_rotation_are_there_under_both_epochs(path: Path) -> None:
    """The store is in full use while the rotation waits for the counter."""
    with opened(path, 1) as store:
        store.begin_rotation(kek(2))
        store.put("wallet", b"new")
        store.delete("payments/pin")
    expected = {"wallet": b"new", "payments/transport": VALUES["payments/transport"]}
    assert contents(path, 1) == expected
    assert contents(path, 2) == expected


def test_the_epochs_are_read_while_the_store_is_open(path: Path) -> None:
    """A status command needs neither the key nor the lock."""
    with opened(path, 1) as store:
        assert KeyStore.epochs(path) == (1,)
        store.begin_rotation(kek(2))
        assert KeyStore.epochs(path) == (1, 2)
        store.put("wallet", b"still works")
    assert contents(path, 2)["wallet"] == b"still works"
