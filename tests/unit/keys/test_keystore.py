"""The key store gives back what was put, refuses what it must not hold, and counts."""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from hwtrust.errors import (
    EntryNameError,
    EntryNotFoundError,
    KeyStoreExistsError,
    KeyStoreLockedError,
    KeyStoreMissingError,
    MalformedError,
)
from hwtrust.keys import Entry, KeyStore
from unit.keys.stores import DEVICE, VALUES, contents, kek, make, opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a key store with VALUES is, closed."""
    where = tmp_path / "state" / "keys.db"
    make(where)
    return where


def test_what_was_put_is_there_after_reopening(path: Path) -> None:
    """Names and values come back to the byte."""
    assert contents(path, 1) == VALUES


def test_a_new_store_is_empty_and_opens_under_its_epoch(tmp_path: Path) -> None:
    """Creating makes the directory, private, and leaves nothing but the file and its lock."""
    where = tmp_path / "new" / "keys.db"
    with KeyStore.create(where, kek(5), device=DEVICE) as store:
        assert (len(store), store.list(), store.epoch, store.generation) == (0, (), 5, 0)
    assert KeyStore.epochs(where) == (5,)
    assert where.parent.stat().st_mode & 0o777 == 0o700
    assert {file.name for file in where.parent.iterdir()} == {"keys.db", "keys.db.lock"}


def test_creating_never_overwrites(path: Path) -> None:
    """A second create is refused and leaves the store as it was."""
    before = path.read_bytes()
    with pytest.raises(KeyStoreExistsError) as refused:
        KeyStore.create(path, kek(1), device=DEVICE)
    assert refused.value.code == "keystore:exists"
    assert path.read_bytes() == before


def test_creating_succeeds_after_an_earlier_try_was_killed(tmp_path: Path) -> None:
    """Neither a half-made file nor a stray journal of a lost store is in the way."""
    for leftover in ("keys.db.new", "keys.db.new-journal", "keys.db-journal", "keys.db.lock"):
        (tmp_path / leftover).write_bytes(b"half of something")
    with KeyStore.create(tmp_path / "keys.db", kek(1), device=DEVICE) as store:
        store.put("name", b"value")
    assert contents(tmp_path / "keys.db", 1) == {"name": b"value"}
    assert {file.name for file in tmp_path.iterdir()} == {"keys.db", "keys.db.lock"}


def test_opening_what_is_not_there_is_its_own_error(tmp_path: Path) -> None:
    """A device that has no store yet is told so, and nothing is made."""
    for where in (tmp_path / "keys.db", tmp_path / "no directory" / "keys.db"):
        for attempt in (
            lambda where=where: opened(where, 1),
            lambda where=where: KeyStore.epochs(where),
        ):
            with pytest.raises(KeyStoreMissingError) as refused:
                attempt()
            assert refused.value.code == "keystore:missing"
    assert list(tmp_path.iterdir()) == []


def test_the_store_reads_like_a_mapping(path: Path) -> None:
    """Index, get, in, len and iteration agree."""
    with opened(path, 1) as store:
        assert store["wallet"] == store.get("wallet") == VALUES["wallet"]
        assert store.get("nothing") is None
        assert store.get("nothing", b"else") == b"else"
        assert "wallet" in store
        assert "nothing" not in store
        assert 7 not in store
        assert len(store) == 3
        assert list(store) == sorted(VALUES)


def test_the_list_says_name_version_epoch_and_size(path: Path) -> None:
    """What a command line shows needs no decryption."""
    with opened(path, 1) as store:
        store.put("wallet", b"12345")
        assert store.list() == (
            Entry("payments/pin", 1, 1, len(VALUES["payments/pin"])),
            Entry("payments/transport", 1, 1, len(VALUES["payments/transport"])),
            Entry("wallet", 2, 1, 5),
        )


def test_versions_of_a_name_only_count_up(path: Path) -> None:
    """A name never has a version twice, not even after it was deleted."""
    with opened(path, 1) as store:
        assert store.put("wallet", b"two").version == 2
        assert store.put("wallet", b"three").version == 3
        store.delete("wallet")
        store.delete("payments/pin")
    with opened(path, 1) as store:
        assert store.put("wallet", b"four").version == 4
        assert store["wallet"] == b"four"


def test_the_generation_counts_every_change(path: Path) -> None:
    """A caller that remembers it elsewhere can notice an older copy of the file."""
    with opened(path, 1) as store:
        assert store.generation == len(VALUES)
        store.put("wallet", b"two")
        store.delete("wallet")
        store.rotate(kek(2))
    with opened(path, 2) as store:
        assert store.generation == len(VALUES) + 4


def test_deleting_leaves_the_others(path: Path) -> None:
    """Only the entry named is gone."""
    with opened(path, 1) as store:
        store.delete("payments/pin")
        assert "payments/pin" not in store
    assert contents(path, 1) == {
        name: value for name, value in VALUES.items() if name != "payments/pin"
    }


def test_a_missing_entry_is_its_own_error(path: Path) -> None:
    """Reading and deleting what is not there say so, by the name."""
    with opened(path, 1) as store:
        for attempt in (lambda: store["nothing"], lambda: store.delete("nothing")):
            with pytest.raises(EntryNotFoundError) as refused:
                attempt()
            assert refused.value.code == "keystore:entry:missing"
            assert refused.value.data["name"] == "nothing"


ACCEPTED = {
    "one character": "a",
    "255 characters": "n" * 255,
    "segments": "a/b/c",
    "spaces inside": "my key",
    "other scripts": "ключ/鍵",
    "what would be a path": "../../etc/passwd",
    "what would be SQL": "'; DROP TABLE entries; --",
}


@pytest.mark.parametrize("name", ACCEPTED.values(), ids=ACCEPTED)
def test_a_printable_name_is_accepted(path: Path, name: str) -> None:
    """A name is a name: it is neither a path nor a statement."""
    with opened(path, 1) as store:
        store.put(name, b"value")
    assert contents(path, 1) == VALUES | {name: b"value"}


REFUSED = {
    "empty": "",
    "256 characters": "n" * 256,
    "NUL": "a\0b",
    "a newline": "a\nb",
    "an escape": "a\x1b[31mb",
    "delete": "a\x7f",
    "a C1 control": "a\x9b",
    "right-to-left override": "a\u202eb",
    "a lone surrogate": "a\ud800",
    "a line separator": "a\u2028b",
    "a leading slash": "/a",
    "a trailing slash": "a/",
    "two slashes": "a//b",
    "a slash alone": "/",
}


@pytest.mark.parametrize("name", REFUSED.values(), ids=REFUSED)
def test_a_name_that_could_mislead_is_refused(path: Path, name: str) -> None:
    """What is shown in a list is what was stored, on one line."""
    with opened(path, 1) as store:
        with pytest.raises(EntryNameError) as refused:
            store.put(name, b"value")
        assert refused.value.code == "keystore:entry:invalid"
        assert len(store) == len(VALUES)


def test_a_value_has_at_most_one_mebibyte(path: Path) -> None:
    """The largest value and the empty one come back; one byte more is refused."""
    largest = bytes(range(256)) * 4096
    with opened(path, 1) as store:
        store.put("largest", largest)
        store.put("empty", b"")
        with pytest.raises(EntryNameError) as refused:
            store.put("too large", largest + b"\0")
        assert refused.value.code == "keystore:entry:invalid"
        assert refused.value.data["size"] == len(largest) + 1
    assert contents(path, 1) == VALUES | {"largest": largest, "empty": b""}


USES: dict[str, Callable[[KeyStore], object]] = {
    "reading": lambda store: store["wallet"],
    "get": lambda store: store.get("wallet"),
    "list": lambda store: store.list(),
    "iterating": list,
    "in": lambda store: "wallet" in store,
    "len": len,
    "generation": lambda store: store.generation,
    "put": lambda store: store.put("wallet", b"value"),
    "delete": lambda store: store.delete("wallet"),
    "begin_rotation": lambda store: store.begin_rotation(kek(2)),
    "finish_rotation": lambda store: store.finish_rotation(1),
    "rotate": lambda store: store.rotate(kek(2)),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_closed_store_does_nothing_any_more(
    path: Path, use: Callable[[KeyStore], object]
) -> None:
    """Closing forgets the keys: whoever still has the object has nothing."""
    store = opened(path, 1)
    held = store._contents
    assert held is not None
    store.close()
    store.close()
    with pytest.raises(KeyStoreLockedError) as refused:
        use(store)
    assert refused.value.code == "keystore:locked"
    assert held.data_key._root.erased
    assert store._keks == {}


def test_a_store_keeps_working_when_its_caller_erases_the_kek(path: Path) -> None:
    """The store has a duplicate, so that callers can forget theirs at once."""
    key, new = kek(1), kek(2)
    with KeyStore.open(path, key, device=DEVICE) as store:
        key.erase()
        store.begin_rotation(new)
        new.erase()
        store.finish_rotation(2)
        store.rotate(kek(3))
    assert contents(path, 3) == VALUES


def test_an_erased_kek_opens_and_makes_nothing(path: Path) -> None:
    """A store is not wrapped under an empty key."""
    key = kek(1)
    key.erase()
    attempts: tuple[Callable[[], object], ...] = (
        lambda: KeyStore.open(path, key, device=DEVICE),
        lambda: KeyStore.create(path.with_name("other.db"), key, device=DEVICE),
    )
    for attempt in attempts:
        with pytest.raises(KeyStoreLockedError) as refused:
            attempt()
        assert refused.value.code == "keystore:locked"
    assert {file.name for file in path.parent.iterdir() if file.suffix != ".lock"} == {"keys.db"}
    assert contents(path, 1) == VALUES


def test_a_store_belongs_to_a_device(path: Path) -> None:
    """No device, no store."""
    attempts: tuple[Callable[[], object], ...] = (
        lambda: KeyStore.open(path, kek(1), device=b""),
        lambda: KeyStore.create(path.with_name("other.db"), kek(1), device=b""),
    )
    for attempt in attempts:
        with pytest.raises(MalformedError) as refused:
            attempt()
        assert refused.value.code == "wire:malformed"


def test_threads_share_an_open_store(path: Path) -> None:
    """Changes from several threads all happen, one after the other."""

    def work(number: int) -> None:
        for turn in range(5):
            store.put(f"thread/{number}", str(turn).encode())

    with opened(path, 1) as store:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    expected = {f"thread/{number}": b"4" for number in range(4)}
    assert contents(path, 1) == VALUES | expected


NAMES = st.sampled_from(["a", "b", "a/b", "c"])
CHANGES = st.one_of(
    st.tuples(st.just("put"), NAMES, st.binary(max_size=9000)),
    st.tuples(st.just("delete"), NAMES, st.just(b"")),
    st.tuples(st.just("rotate"), st.just(""), st.just(b"")),
    st.tuples(st.just("reopen"), st.just(""), st.just(b"")),
)


@settings(max_examples=30)
@given(changes=st.lists(CHANGES, max_size=12))
def test_any_sequence_of_changes_leaves_what_a_dictionary_would_hold(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str, bytes]]
) -> None:
    """Puts, deletes, rotations and reopenings in any order lose and invent nothing."""
    where = tmp_path_factory.mktemp("model") / "keys.db"
    model: dict[str, bytes] = {}
    epoch = 1
    store = KeyStore.create(where, kek(epoch), device=DEVICE)
    for kind, name, value in changes:
        if kind == "put":
            store.put(name, value)
            model[name] = value
        elif kind == "delete" and name in model:
            store.delete(name)
            del model[name]
        elif kind == "rotate":
            epoch += 1
            store.rotate(kek(epoch))
        elif kind == "reopen":
            store.close()
            store = opened(where, epoch)
    store.close()
    assert contents(where, epoch) == model


def sized(part: bytes) -> bytes:
    """`part` after its length in four bytes."""
    return len(part).to_bytes(4, "big") + part


def number(value: int) -> bytes:
    """`value` in eight bytes."""
    return value.to_bytes(8, "big")


def expand(key: bytes, purpose: bytes) -> bytes:
    """HKDF-Expand of RFC 5869 §2.3 for one block."""
    return hmac.digest(key, sized(purpose) + b"\x01", "sha256")


def test_format_1_is_what_its_description_says(tmp_path: Path) -> None:
    """An independent reading opens wrap, entry and seal: the format cannot drift."""
    where = tmp_path / "keys.db"
    make(where, {"a/b": b"value"}, epoch=3)
    with closing(sqlite3.connect(where)) as connection:
        ((store_id, generation, floor, seal),) = connection.execute(
            "SELECT store_id, generation, floor, seal FROM store"
        )
        ((epoch, nonce, wrapped),) = connection.execute("SELECT * FROM wraps")
        ((name, version, written, entry_nonce, ciphertext),) = connection.execute(
            "SELECT name, version, epoch, nonce, ciphertext FROM entries"
        )
    assert (epoch, name, version, written, generation, floor) == (3, "a/b", 1, 3, 1, 0)
    place = number(1) + sized(store_id)

    context = sized(b"hwtrust key store wrap") + place + sized(DEVICE) + number(3)
    data_key = AESGCM(bytes(kek(3)._secret.reveal())).decrypt(nonce, wrapped, context)

    context = sized(b"hwtrust key store entry") + place + sized(b"a/b") + number(1) + number(3)
    entry_key = AESGCM(expand(data_key, b"hwtrust key store entry v1"))
    assert entry_key.decrypt(entry_nonce, ciphertext, context) == b"value"

    def digest(nonce: bytes, ciphertext: bytes) -> bytes:
        return sized(hashlib.sha256(sized(nonce) + sized(ciphertext)).digest())

    message = sized(b"hwtrust key store seal") + place + sized(DEVICE) + number(1) + number(0)
    message += number(1) + number(3) + digest(nonce, wrapped)
    message += number(1) + sized(b"a/b") + number(1) + number(3) + digest(entry_nonce, ciphertext)
    seal_key = expand(data_key, b"hwtrust key store seal v1")
    assert seal == hmac.digest(seal_key, message, "sha256")
