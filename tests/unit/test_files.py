"""Files are whole or not there, private, locked, and bounded; errors are hwtrust's own."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwtrust.errors import (
    StateBusyError,
    StateDamagedError,
    StateDiskError,
    StateError,
    StateMissingError,
    StatePermissionError,
)
from hwtrust.files import FileLock, private_directory, read_limited, state_error, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]


def mode(path: Path) -> int:
    """The permission bits of `path`."""
    return path.stat().st_mode & 0o7777


def names(directory: Path) -> set[str]:
    """The names in `directory`."""
    return {path.name for path in directory.iterdir()}


# --- write_atomic -----------------------------------------------------------------------


def test_a_file_is_written_and_replaced_whole(tmp_path: Path) -> None:
    """The content is the one given last, and nothing else is left in the directory."""
    path = tmp_path / "state"
    write_atomic(path, b"first, and longer")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    write_atomic(path, b"")
    assert path.read_bytes() == b""
    assert names(tmp_path) == {"state"}


def test_a_reader_of_the_old_file_keeps_the_old_content(tmp_path: Path) -> None:
    """Replacing is a change of name: no reader sees a part of either content."""
    path = tmp_path / "state"
    write_atomic(path, b"old")
    with path.open("rb") as reader:
        write_atomic(path, b"new")
        assert reader.read() == b"old"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_a_file_has_the_mode_that_is_asked_for(tmp_path: Path, umask: int) -> None:
    """0600 unless said otherwise, whatever the umask and the old file's mode."""
    path = tmp_path / "state"
    path.write_bytes(b"old")
    path.chmod(0o666)
    before = os.umask(umask)
    try:
        write_atomic(path, b"private")
        assert mode(path) == 0o600
        write_atomic(path, b"public", mode=0o644)
        assert mode(path) == 0o644
    finally:
        os.umask(before)


class Interruption(BaseException):
    """Anything that stops a write."""


def test_a_file_is_private_from_its_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The temporary file has the final mode before anything is in it."""
    seen: list[tuple[int, int]] = []
    real = os.fdopen

    def look(handle: int, *args: object, **kwargs: object) -> object:
        found = os.fstat(handle)
        seen.append((found.st_mode & 0o777, found.st_size))
        return real(handle, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "fdopen", look)
    before = os.umask(0)
    try:
        write_atomic(tmp_path / "state", b"private")
    finally:
        os.umask(before)
    assert seen == [(0o600, 0)]


STEPS = {"fchmod": "fchmod", "fsync of the file": "fsync", "the opening": "fdopen"}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_write_that_is_interrupted_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The old content stays, and the temporary file goes."""
    path = tmp_path / "state"
    write_atomic(path, b"old")

    def stop(*_args: object, **_kwargs: object) -> None:
        raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(os, step, stop)
        with pytest.raises(Interruption):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"state"}


def test_file_and_directory_are_synced_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is on the disk before the name, and the name before the return."""
    done: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        target = Path(f"/proc/self/fd/{handle}").readlink()
        done.append("sync directory" if target.is_dir() else "sync file")
        real_fsync(handle)

    def replace(source: Path, target: Path) -> Path:
        done.append("rename")
        return real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    write_atomic(tmp_path / "state", b"content")
    assert done == ["sync file", "rename", "sync directory"]


def test_75_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A write that does not fit is a typed error and loses nothing."""
    path = tmp_path / "state"
    write_atomic(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StateDiskError) as refused:
            write_atomic(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert refused.value.code == "state:disk"
    assert refused.value.data["reason"] == "full"
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"state"}


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """Writing state changes no file elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"untouched")
    link = tmp_path / "state"
    link.symlink_to(elsewhere)
    write_atomic(link, b"new")
    assert elsewhere.read_bytes() == b"untouched"
    assert not link.is_symlink()
    assert link.read_bytes() == b"new"


def test_a_file_in_no_directory_is_refused(tmp_path: Path) -> None:
    """Directories are not made on the way: their mode would be a guess."""
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "missing" / "state", tmp_path / "file" / "state"):
        with pytest.raises(StateMissingError) as refused:
            write_atomic(path, b"content")
        assert refused.value.code == "state:missing"


def test_a_directory_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """What is in the way stays."""
    (tmp_path / "state").mkdir()
    with pytest.raises(StateDamagedError) as refused:
        write_atomic(tmp_path / "state", b"content")
    assert refused.value.code == "state:damaged"
    assert names(tmp_path) == {"state"}


# --- read_limited --------------------------------------------------------------------------


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """A file of exactly the limit is whole."""
    write_atomic(tmp_path / "state", b"12345678")
    assert read_limited(tmp_path / "state", limit=8) == b"12345678"
    assert read_limited(tmp_path / "state", limit=9) == b"12345678"


def test_a_file_longer_than_the_limit_is_refused_not_cut(tmp_path: Path) -> None:
    """A swapped file neither fills the memory nor passes in part."""
    write_atomic(tmp_path / "state", b"123456789")
    with pytest.raises(StateDamagedError) as refused:
        read_limited(tmp_path / "state", limit=8)
    assert refused.value.code == "state:damaged"
    os.truncate(tmp_path / "state", 1 << 40)
    with pytest.raises(StateDamagedError):
        read_limited(tmp_path / "state", limit=1 << 20)


def test_a_missing_file_is_its_own_error(tmp_path: Path) -> None:
    """Not enrolled yet is not damaged."""
    with pytest.raises(StateMissingError) as refused:
        read_limited(tmp_path / "state", limit=8)
    assert refused.value.code == "state:missing"
    assert refused.value.data["path"] == str(tmp_path / "state")


SPECIALS: dict[str, Callable[[Path], object]] = {
    "a directory": lambda path: path.mkdir(),
    "a FIFO": os.mkfifo,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("make", SPECIALS.values(), ids=SPECIALS)
def test_what_is_no_regular_file_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    """Reading neither waits for a writer nor reads for ever."""
    make(tmp_path / "state")
    with pytest.raises(StateDamagedError) as refused:
        read_limited(tmp_path / "state", limit=8)
    assert refused.value.code == "state:damaged"


# --- private_directory ---------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_directory_is_private(tmp_path: Path, umask: int) -> None:
    """0700, whatever the umask, and its missing parents are made."""
    before = os.umask(umask)
    try:
        made = private_directory(tmp_path / "var" / "hwtrust")
    finally:
        os.umask(before)
    assert made == tmp_path / "var" / "hwtrust"
    assert mode(made) == 0o700


@pytest.mark.parametrize("bits", [0o700, 0o755, 0o711, 0o500])
def test_an_existing_directory_that_others_cannot_write_is_accepted(
    tmp_path: Path, bits: int
) -> None:
    """It stays as its owner made it."""
    directory = tmp_path / "state"
    directory.mkdir()
    directory.chmod(bits)
    assert private_directory(directory) == directory
    assert mode(directory) == bits


@pytest.mark.parametrize("bits", [0o770, 0o720, 0o702, 0o777, 0o1777])
def test_102_a_directory_that_others_can_write_is_refused(tmp_path: Path, bits: int) -> None:
    """Who can write a directory owns the names in it."""
    directory = tmp_path / "state"
    directory.mkdir()
    directory.chmod(bits)
    with pytest.raises(StatePermissionError) as refused:
        private_directory(directory)
    assert refused.value.code == "state:permission"
    assert refused.value.data["mode"] == bits


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_102_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    """Its owner can change its mode at any time."""
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, 65534)
    with pytest.raises(StatePermissionError) as refused:
        private_directory(directory)
    assert refused.value.code == "state:permission"
    assert refused.value.data["uid"] == 65534


def test_a_file_in_the_directorys_place_is_refused(tmp_path: Path) -> None:
    """Neither the file itself nor a path through it is a directory."""
    (tmp_path / "state").write_bytes(b"")
    with pytest.raises(StateDamagedError):
        private_directory(tmp_path / "state")
    with pytest.raises(StateError) as refused:
        private_directory(tmp_path / "state" / "inner")
    assert refused.value.code == "state:missing"


# --- FileLock --------------------------------------------------------------------------------


def test_a_lock_is_held_by_one_opener(tmp_path: Path) -> None:
    """A second one in the same process is refused, and served after the release."""
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    with first:
        for other in (first, second):
            with pytest.raises(StateBusyError) as refused:
                other.acquire()
            assert refused.value.code == "state:busy"
        assert [first.held, second.held] == [True, False]
    with second:
        assert [first.held, second.held] == [False, True]


def try_lock(path: Path) -> str:
    """What another process gets from locking `path`."""
    program = (
        "import sys\n"
        "from hwtrust.errors import HwTrustError\n"
        "from hwtrust.files import FileLock\n"
        "try:\n"
        "    FileLock(sys.argv[1]).acquire()\n"
        "except HwTrustError as error:\n"
        "    print(error.code, end='')\n"
        "else:\n"
        "    print('held', end='', flush=True)\n"
        "    import os, signal\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout


def test_a_lock_holds_between_processes_and_ends_with_its_holder(tmp_path: Path) -> None:
    """A killed holder leaves the file, and no lock."""
    with FileLock(tmp_path / "lock"):
        assert try_lock(tmp_path / "lock") == "state:busy"
    assert try_lock(tmp_path / "lock") == "held"
    with FileLock(tmp_path / "lock") as lock:
        assert lock.held


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """The release is for the lock, not only for this process's handle of it."""
    reader, writer = os.pipe()
    lock = FileLock(tmp_path / "lock")
    lock.acquire()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)  # until the parent is done
        os._exit(0)
    os.close(reader)
    try:
        lock.release()
        with FileLock(tmp_path / "lock") as other:
            assert other.held
    finally:
        os.close(writer)
        os.waitpid(child, 0)


def test_a_lock_file_is_private_and_stays(tmp_path: Path) -> None:
    """Deleting it would let two processes lock two files of one name."""
    before = os.umask(0)
    try:
        with FileLock(tmp_path / "lock"):
            assert mode(tmp_path / "lock") == 0o600
    finally:
        os.umask(before)
    assert names(tmp_path) == {"lock"}


def test_a_lock_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """Nothing is made elsewhere."""
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StatePermissionError) as refused:
        FileLock(tmp_path / "lock").acquire()
    assert refused.value.code == "state:permission"
    assert names(tmp_path) == {"lock"}


def test_a_lock_in_no_directory_is_refused(tmp_path: Path) -> None:
    """The error is hwtrust's, and the lock is not held."""
    lock = FileLock(tmp_path / "missing" / "lock")
    with pytest.raises(StateMissingError):
        lock.acquire()
    assert not lock.held
    lock.release()


def test_a_lock_is_released_when_its_block_fails(tmp_path: Path) -> None:
    """An error does not leave the device locked."""
    with pytest.raises(Interruption), FileLock(tmp_path / "lock"):
        raise Interruption
    with FileLock(tmp_path / "lock") as lock:
        assert lock.held
        assert "held" in repr(lock)


# --- errors ----------------------------------------------------------------------------------

KINDS = {
    errno.ENOENT: ("state:missing", None),
    errno.ENOTDIR: ("state:missing", None),
    errno.EACCES: ("state:permission", None),
    errno.EPERM: ("state:permission", None),
    errno.ELOOP: ("state:permission", None),
    errno.EISDIR: ("state:damaged", None),
    errno.ENOSPC: ("state:disk", "full"),
    errno.EDQUOT: ("state:disk", "full"),
    errno.EFBIG: ("state:disk", "full"),
    errno.EROFS: ("state:disk", "read-only"),
    errno.EIO: ("state:disk", "io"),
    errno.EMFILE: ("state:disk", "io"),
}


@pytest.mark.parametrize("number", KINDS, ids=errno.errorcode.get)
def test_every_operating_system_error_has_a_place_in_the_tree(number: int) -> None:
    """A program can tell full from read-only from missing from forbidden."""
    error = state_error(OSError(number, os.strerror(number)), "/var/lib/state")
    assert (error.code, error.data.get("reason")) == KINDS[number]
    assert error.data["path"] == "/var/lib/state"
