"""A key store that is in no file: as any other, and gone when it is closed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import EntryNotFoundError, KeyStoreEpochError, KeyStoreLockedError
from hwtrust.keys import KeyStore
from unit.keys.stores import DEVICE, VALUES, kek

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store() -> KeyStore:
    """One with a few entries."""
    made = KeyStore.in_memory(kek(1), device=DEVICE)
    for name, value in VALUES.items():
        made.put(name, value)
    return made


def test_a_store_in_memory_is_a_store(store: KeyStore) -> None:
    """It takes, gives, lists and deletes."""
    with store:
        assert {name: store[name] for name in store} == VALUES
        store.delete("wallet")
        with pytest.raises(EntryNotFoundError):
            _ = store["wallet"]
        assert store.put("wallet", b"new").version == 2
        assert store.epoch == 1


def test_a_store_in_memory_is_rotated(store: KeyStore) -> None:
    """Its entries stay; an epoch that is not above its own is refused."""
    with store:
        store.rotate(kek(2))
        assert {name: store[name] for name in store} == VALUES
        assert store.epoch == 2
        with pytest.raises(KeyStoreEpochError):
            store.rotate(kek(2))


def test_a_store_in_memory_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made where it was made."""
    monkeypatch.chdir(tmp_path)
    with KeyStore.in_memory(kek(1), device=DEVICE) as store:
        store.put("name", b"value")
        assert list(tmp_path.iterdir()) == []


def test_a_closed_store_in_memory_is_gone(store: KeyStore) -> None:
    """There is no other way to it; two of them share nothing."""
    with KeyStore.in_memory(kek(1), device=DEVICE) as other:
        assert len(other) == 0
    store.close()
    store.close()
    with pytest.raises(KeyStoreLockedError):
        _ = store["wallet"]


def test_a_store_in_memory_needs_a_key() -> None:
    """An erased one makes none."""
    erased = kek(1)
    erased.erase()
    with pytest.raises(KeyStoreLockedError):
        KeyStore.in_memory(erased, device=DEVICE)
