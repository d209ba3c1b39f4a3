"""Line 104 of the list of adversaries: no secret of the key store shows where it should not."""

from __future__ import annotations

import copy
import logging
import pickle
import sqlite3
import traceback
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import HwTrustError
from hwtrust.keys import Kek, KeyStore
from unit.keys.stores import DEVICE, VALUES, kek, make, opened, root

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VALUE = b"the value that nobody sees, 0123"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a key store of epoch 1 with VALUES is, closed."""
    where = tmp_path / "keys.db"
    make(where, VALUES | {"secret": VALUE})
    return where


def keys_of(store: KeyStore) -> set[bytes]:
    """Every key that an open store holds."""
    assert store._contents
    data_key = store._contents.data_key
    secrets = {data_key._root, data_key._entry, data_key._seal}
    secrets |= {key._secret for key in store._keks.values()}
    return {bytes(secret.reveal()) for secret in secrets}


def shown(secret: bytes, text: str) -> bool:
    """Whether `text` shows `secret`: as text, as Python writes bytes, or in hexadecimal."""
    forms = (secret.decode("latin-1"), repr(secret)[2:-1], repr(secret)[2:14], secret.hex())
    return any(form in text for form in forms)


def test_104_the_files_hold_no_plaintext_and_no_key(path: Path) -> None:
    """Neither the store nor its journal, at any statement, contains a value or a key."""
    looks = 0

    def look(_statement: str) -> None:
        nonlocal looks
        for file in path.parent.iterdir():
            found = file.read_bytes()
            looks += 1
            for secret in secrets:
                assert secret not in found
                assert secret.hex().encode() not in found

    secrets = {*VALUES.values(), VALUE, b"another value", root(1), root(2)}
    with opened(path, 1) as store:
        secrets |= keys_of(store)
        assert len(secrets) > 8
        store._database._connection.set_trace_callback(look)
        store.put("another", b"another value")
        store.begin_rotation(kek(2))
        secrets |= keys_of(store)
        look("")
        store.finish_rotation(2)
        store.delete("secret")
        look("")
    look("")
    assert looks > 60


def test_104_the_search_finds_what_is_there(path: Path) -> None:
    """The counter-check: what is stored openly, the names, is found by such a search."""
    assert b"payments/transport" in path.read_bytes()


def test_104_a_store_shows_neither_keys_nor_values(path: Path) -> None:
    """A store, its list and its entries can be printed and logged."""
    with opened(path, 1) as store:
        text = f"{store!r} {store!s} {store} {store.list()!r} {store._contents!r} {store._keks!r}"
        for secret in (*keys_of(store), *VALUES.values(), VALUE):
            assert not shown(secret, text)
        assert "epoch 1" in repr(store)
    assert "closed" in repr(store)


def test_104_a_store_is_neither_pickled_nor_copied(path: Path) -> None:
    """The keys stay in the process that opened the store."""
    with opened(path, 1) as store:
        for duplicate in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                duplicate(store)


def failing_write(path: Path, kind: Callable[[KeyStore], object]) -> None:
    """Do something with the store when its file cannot be written any more."""

    def refuse(*_arguments: object) -> int:
        return sqlite3.SQLITE_DENY

    with opened(path, 1) as store:
        store._database._connection.set_authorizer(refuse)
        try:
            kind(store)
        finally:
            store._database._connection.set_authorizer(None)


FAILURES: dict[str, Callable[[Path], object]] = {
    "a wrong KEK": lambda path: KeyStore.open(path, kek(1, issue="other"), device=DEVICE),
    "another epoch": lambda path: opened(path, 2),
    "a missing entry": lambda path: failing_write(path, lambda store: store["nothing"]),
    "a name refused": lambda path: failing_write(path, lambda store: store.put("a\n", hidden())),
    "a value refused": lambda path: failing_write(
        path, lambda store: store.put("a", hidden() * (1 << 16))
    ),
    "a put that fails": lambda path: failing_write(path, lambda store: store.put("a", hidden())),
    "a rotation that fails": lambda path: failing_write(
        path, lambda store: store.begin_rotation(kek(2))
    ),
    "a read that fails": lambda path: failing_write(path, lambda store: store["secret"]),
    "a put into a closed store": lambda path: closed(path).put("a", hidden()),
}


def hidden() -> bytes:
    """The value, in no variable of this module's functions."""
    return bytes(VALUE)


def closed(path: Path) -> KeyStore:
    """A store that is closed."""
    with opened(path, 1) as store:
        return store


def report(path: Path, fail: Callable[[Path], object]) -> str:
    """All that is known of the error that `fail` ends in, the variables of all frames included."""
    with pytest.raises(HwTrustError) as refused:
        fail(path)
    error = refused.value
    logging.getLogger("test").error("it failed", exc_info=error)
    found = traceback.TracebackException.from_exception(error, capture_locals=True)
    return f"{''.join(found.format())} {error!r} {error.data!r}"


def test_104_a_report_shows_the_variables_of_every_frame(path: Path) -> None:
    """The counter-check: a value that is in a variable is found."""

    def fail(_path: Path) -> None:
        value = hidden()
        raise HwTrustError("it failed", size=len(value))

    assert shown(VALUE, report(path, fail))


@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES)
def test_104_a_traceback_shows_no_secret_even_with_its_variables(
    path: Path, fail: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    """What an error reporter collects, variables of every frame included, is harmless."""
    text = report(path, fail) + caplog.text
    assert "keystore.py" in text
    assert "contents = " in text or "cls = " in text or "self = " in text
    with opened(path, 1) as store:
        secrets = {*keys_of(store), VALUE, *VALUES.values()}
    for key in (kek(2), kek(1, issue="other")):
        secrets.add(bytes(key._secret.reveal()))
    for secret in secrets:
        assert not shown(secret, text)


def test_104_a_kek_shows_its_epoch_only() -> None:
    """What a log needs to know is there, and nothing else."""
    key = kek(7)
    assert repr(key) == "<Kek of epoch 7>"
    key.erase()
    assert repr(key) == "<Kek of epoch 7, erased>"
    assert type(key) is Kek
