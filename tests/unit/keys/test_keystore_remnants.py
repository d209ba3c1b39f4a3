"""Revoked KEKs leave the key store for good: no byte of what they opened is on its disk again."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from hwtrust.keys import KeyStore
from unit.keys.stores import VALUES, kek, make, opened

ROOT: Final = Path(__file__).resolve().parents[3]
# Of several pages of the file, so that some of it lies on pages of its own.
LARGE: Final = VALUES | {f"large/{number}": os.urandom(30_000) for number in range(3)}
STEP: Final = 256
LENGTH: Final = 16
"""What chance does not repeat."""


def secrets_of(path: Path) -> list[bytes]:
    """Every wrap and every ciphertext in the file."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT ciphertext FROM wraps UNION ALL SELECT ciphertext FROM entries"
        )
        return [row[0] for row in rows]


def remnants(directory: Path, secrets: list[bytes]) -> list[str]:
    """The files in which any part of these is still to be found."""
    parts = [
        secret[begin : begin + LENGTH]
        for secret in secrets
        for begin in (*range(0, len(secret) - LENGTH, STEP), len(secret) - LENGTH)
    ]
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files
    return [path.name for path in files if any(part in path.read_bytes() for part in parts)]


def through(path: Path) -> None:
    """Take an interrupted rotation to its end, as a device does after its start."""
    epoch = min(KeyStore.epochs(path))
    with opened(path, epoch) as store:
        if epoch == 1:
            store.begin_rotation(kek(2))
        store.finish_rotation(2)


def killed(tmp_path: Path, source: Path, *steps: str) -> list[Path]:
    """Copies of the store, killed at each statement of the last step in turn."""
    copies = tmp_path / "copies"
    copies.mkdir()
    program = Path(__file__).with_name("killed.py")
    subprocess.run(
        [sys.executable, str(program), str(source), str(copies), *steps],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        check=True,
    )
    return [copy / "keys.db" for copy in copies.iterdir()]


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    """A test that looks for nothing would find nothing."""
    path = tmp_path / "keys.db"
    make(path, LARGE)
    assert remnants(tmp_path, secrets_of(path)) == ["keys.db"]
    for secret in secrets_of(path):
        assert remnants(tmp_path, [secret]) == ["keys.db"]


def test_a_finished_rotation_leaves_nothing_of_the_old_epoch_in_any_file(tmp_path: Path) -> None:
    """Neither in the file nor beside it: wraps and entries, before, between and after."""
    path = tmp_path / "keys.db"
    make(path, LARGE)
    first = secrets_of(path)
    with opened(path, 1) as store:
        store.begin_rotation(kek(2))
        with closing(sqlite3.connect(path)) as connection:
            query = "SELECT ciphertext FROM wraps WHERE epoch = 1"
            [(old_wrap,)] = connection.execute(query)
        store.finish_rotation(2)
        assert remnants(tmp_path, [*first, old_wrap]) == []
    assert remnants(tmp_path, [*first, old_wrap]) == []
    assert {file.name for file in tmp_path.iterdir()} == {"keys.db", "keys.db.lock"}


@pytest.mark.parametrize("steps", [("begin",), ("begin", "finish")], ids=["begun", "finished"])
def test_101_a_rotation_killed_anywhere_leaves_nothing_once_it_is_through(
    tmp_path: Path, steps: tuple[str, ...]
) -> None:
    """The journals of all kills are gone, and what they would have brought back."""
    source = tmp_path / "source" / "keys.db"
    make(source, LARGE)
    first = secrets_of(source)
    copies = killed(tmp_path, source, *steps)
    assert len(copies) > 5
    assert any(path.with_name("keys.db-journal").exists() for path in copies)
    for path in copies:
        through(path)
        assert remnants(path.parent, first) == []
        assert not list(path.parent.glob("keys.db-*"))


def test_a_deleted_and_a_replaced_entry_leave_nothing(tmp_path: Path) -> None:
    """What the application takes away is overwritten too."""
    path = tmp_path / "keys.db"
    make(path, LARGE)
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT ciphertext FROM entries WHERE name IN ('large/0', 'large/1')"
        old = [row[0] for row in connection.execute(query)]
    with opened(path, 1) as store:
        store.delete("large/0")
        store.put("large/1", b"small now")
    assert len(old) == 2
    assert remnants(tmp_path, old) == []
