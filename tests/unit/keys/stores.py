"""Key stores for tests: one device, one root for each epoch, a few entries."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import KeyStoreError
from hwtrust.keys import Kek, KeyStore, derive_kek

if TYPE_CHECKING:
    from pathlib import Path

DEVICE = b"\x00\x0b" + hashlib.sha256(b"the endorsement key").digest()
VALUES = {
    "payments/transport": b"transport key: 0123456789abcdef",
    "payments/pin": b"pin key: fedcba9876543210",
    "wallet": b"a seed of twenty-four words",
}


def root(epoch: int, *, issue: str = "") -> bytes:
    """Dynamic root number `epoch`; another `issue` is another root of the same number."""
    return hashlib.sha256(f"root {epoch} {issue}".encode()).digest()


def kek(epoch: int, *, issue: str = "", device: bytes = DEVICE) -> Kek:
    """The KEK of `epoch`."""
    return derive_kek(root(epoch, issue=issue), device=device, epoch=epoch)


def opened(path: Path, epoch: int) -> KeyStore:
    """The store at `path`, open with the KEK of `epoch`."""
    return KeyStore.open(path, kek(epoch), device=DEVICE)


def make(path: Path, values: dict[str, bytes] = VALUES, *, epoch: int = 1) -> None:
    """Make a store at `path` that holds `values`, and close it."""
    with KeyStore.create(path, kek(epoch), device=DEVICE) as store:
        for name, value in values.items():
            store.put(name, value)


def contents(path: Path, epoch: int) -> dict[str, bytes]:
    """Everything that the store at `path` gives to the KEK of `epoch`."""
    with opened(path, epoch) as store:
        return {name: store[name] for name in store}


def tamper(path: Path, *statements: str) -> None:
    """Change the closed store at `path` as somebody with an SQLite shell would."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def refusal(path: Path, epoch: int = 1) -> KeyStoreError:
    """The error that opening the store at `path` ends in."""
    with pytest.raises(KeyStoreError) as refused:
        opened(path, epoch)
    return refused.value
