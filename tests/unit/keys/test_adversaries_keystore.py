"""Lines 101, 102 and 104 further: second names, cut journals, and a process's memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import KeyStoreBusyError, KeyStoreError, KeyStorePermissionError
from hwtrust.keys import KeyStore
from unit.keys.stores import DEVICE, VALUES, contents, kek, make, opened, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a key store of epoch 1 with VALUES is, closed."""
    where = tmp_path / "keys" / "keys.db"
    make(where)
    return where


def outcome(path: Path) -> dict[str, bytes] | str:
    """All that the store holds, or the code of the error that opening or reading ends in."""
    try:
        return contents(path, 1)
    except KeyStoreError as error:
        return error.code


# --- 101: opened twice, by another way to the same file ----------------------------------


def through_a_linked_directory(path: Path) -> Path:
    """A symbolic link to the directory of the store."""
    link = path.parent.with_name("link")
    link.symlink_to(path.parent)
    return link / path.name


def through_dots(path: Path) -> Path:
    """The same path, spelt otherwise."""
    return path.parent / ".." / path.parent.name / path.name


def through_the_working_directory(path: Path) -> Path:
    """A path that begins where the process is."""
    return Path(os.path.relpath(path))


WAYS: dict[str, Callable[[Path], Path]] = {
    "a linked directory": through_a_linked_directory,
    "dots": through_dots,
    "a relative path": through_the_working_directory,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_101_a_store_is_not_opened_twice_by_another_path(
    path: Path, way: Callable[[Path], Path]
) -> None:
    """The lock is the file's, however it is reached."""
    other = way(path)
    with opened(path, 1):
        error = refusal(other)
        assert type(error) is KeyStoreBusyError
        assert error.code == "keystore:busy"
    assert contents(other, 1) == VALUES


def test_101_a_store_with_a_second_name_is_refused_under_both(path: Path) -> None:
    """Under another name its lock and its journal would be other files, and two could write."""
    second = path.parent / "second.db"
    os.link(path, second)
    for name in (path, second):
        error = refusal(name)
        assert error.code == "keystore:permission"
        assert error.data["links"] == 2
        with pytest.raises(KeyStorePermissionError):
            KeyStore.epochs(name)
    second.unlink()
    assert contents(path, 1) == VALUES


def test_101_an_older_copy_with_entries_that_were_deleted_is_as_it_was(path: Path) -> None:
    """The documented limit has its bounds: the whole of an older state, never a mixture of two."""
    old = path.read_bytes()
    with opened(path, 1) as store:
        store.delete("wallet")
        store.put("payments/pin", b"newer")
        newest = store.generation
        newer = {name: store[name] for name in store}
    new = path.read_bytes()
    path.write_bytes(old)
    with opened(path, 1) as store:
        assert {name: store[name] for name in store} == VALUES
        assert store.generation < newest
    mixed = 0
    for offset in range(0, min(len(old), len(new)), 4096):
        if old[offset : offset + 4096] == new[offset : offset + 4096]:
            continue
        path.write_bytes(new[:offset] + old[offset : offset + 4096] + new[offset + 4096 :])
        found = outcome(path)
        assert found in ("keystore:damaged", newer)
        mixed += found == "keystore:damaged"
    assert mixed


JOURNALS: dict[str, bytes] = {
    "empty": b"",
    "noise": bytes(range(256)) * 32,
    "a magic number and nothing": bytes.fromhex("d9d505f920a163d7"),
}


@pytest.mark.parametrize("journal", JOURNALS.values(), ids=JOURNALS)
def test_101_a_journal_laid_beside_the_store_changes_nothing(path: Path, journal: bytes) -> None:
    """A foreign journal is no journal of this store, and does not keep it from opening."""
    path.with_name("keys.db-journal").write_bytes(journal)
    path.with_name("keys.db-journal").chmod(0o600)
    assert contents(path, 1) == VALUES


def test_101_an_older_copy_laid_as_a_journal_does_not_bring_the_past_back_in_part(
    path: Path,
) -> None:
    """A true journal of an earlier change, kept and put back: the old state whole, or a refusal."""
    journal = path.with_name("keys.db-journal")
    kept: list[bytes] = []

    def keep(_statement: str) -> None:
        if journal.exists() and (found := journal.read_bytes()):
            kept.append(found)

    with opened(path, 1) as store:
        store._database._connection.set_trace_callback(keep)
        store.put("wallet", b"second")
        store._database._connection.set_trace_callback(None)
        store.put("payments/pin", b"third")
    assert kept
    whole = path.read_bytes()
    for old in kept:
        path.write_bytes(whole)
        journal.write_bytes(old)
        journal.chmod(0o600)
        newest = VALUES | {"wallet": b"second", "payments/pin": b"third"}
        assert outcome(path) in ("keystore:damaged", VALUES, newest)
        journal.unlink(missing_ok=True)


# --- 102: other people's permissions -----------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_102_another_user_is_refused_with_typed_errors(path: Path) -> None:
    """Who may not read the store gets no traceback, and no store is made beside it."""
    for parent in path.parents:
        if parent.stat().st_uid == 0 and str(parent) != "/":
            parent.chmod(parent.stat().st_mode | 0o001)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        for attempt in (
            lambda: opened(path, 1),
            lambda: KeyStore.epochs(path),
            lambda: KeyStore.create(path.with_name("new.db"), kek(1), device=DEVICE),
        ):
            with pytest.raises(KeyStorePermissionError) as refused:
                attempt()
            assert refused.value.code == "keystore:permission"
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert {file.name for file in path.parent.iterdir()} == {"keys.db", "keys.db.lock"}
    assert contents(path, 1) == VALUES


# --- 104: a process's memory -------------------------------------------------------------

MEMORY = """
import ctypes, json, os, resource, sys
from hwtrust import cli

def told(arguments):
    dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
    print(json.dumps([dumpable, resource.getrlimit(resource.RLIMIT_CORE)]))
    return 0

resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
cli.run = told
told([]) if sys.argv[1] == "before" else cli.main([])
"""


def memory_of_the_command(when: str) -> list[object]:
    """PR_GET_DUMPABLE and RLIMIT_CORE of the command's process."""
    said = subprocess.check_output([sys.executable, "-c", MEMORY, when], text=True, cwd=ROOT)
    told: list[object] = json.loads(said)
    return told


def test_104_the_commands_process_leaves_no_core_dump() -> None:
    """Neither in a file nor through a program of core_pattern, which the limit does not stop."""
    assert memory_of_the_command("before")[0] == 1
    assert memory_of_the_command("inside") == [0, [0, 0]]


def test_104_an_aborted_command_dumps_no_core() -> None:
    """The kernel's own word: the wait status has no core flag, whatever `ulimit -c` allowed."""
    program = (
        "import os, signal; from hwtrust import cli\n"
        "cli.run = lambda arguments: os.kill(os.getpid(), signal.SIGABRT)\n"
        "cli.main([])\n"
    )
    process = os.posix_spawn(
        sys.executable, [sys.executable, "-c", program], {**os.environ, "PYTHONPATH": str(ROOT)}
    )
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status)
    assert not os.WCOREDUMP(status)
