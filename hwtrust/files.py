"""Files that survive a power cut, and that nobody else can read or write.

For small state files, read and written whole; the key store keeps its own
transactions. Nothing here knows what the bytes mean.

Rules:
1. A file holds its old content or its new content, never a part of either.
2. A private file has its final mode from its first byte; the umask can only
   have made it narrower until then.
3. One writer at a time: whoever writes state holds its `FileLock`.
4. What is read has a limit, so that a swapped file cannot fill the memory.
5. No OSError leaves this module: only the StateError family does.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hwtrust.errors import (
    StateBusyError,
    StateDamagedError,
    StateDiskError,
    StateError,
    StateMissingError,
    StatePermissionError,
)

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator
    from types import TracebackType

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP})
_NOT_A_FILE = frozenset({errno.EISDIR, errno.ENXIO})

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700


def state_error(error: OSError, path: str | os.PathLike[str]) -> StateError:
    """The error of hwtrust's tree that says what an OSError about `path` said."""
    where = os.fspath(path)
    said = error.strerror or "input/output error"
    number = error.errno
    if number in _MISSING:
        return StateMissingError(f"{where}: {said}", path=where)
    if number in _FORBIDDEN:
        return StatePermissionError(f"{where}: {said}", path=where)
    if number in _NOT_A_FILE:
        return StateDamagedError(f"{where}: {said}", path=where)
    if number in _FULL:
        reason = "full"
    elif number == errno.EROFS:
        reason = "read-only"
    else:
        reason = "io"
    return StateDiskError(f"{where}: {said}", path=where, reason=reason)


@contextlib.contextmanager
def _converted(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise state_error(error, path) from error


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Make the names in directory `path` survive a power cut.

    Raises:
        StateError: the directory is missing or its disk is failing.
    """
    with _converted(path):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_atomic(path: str | os.PathLike[str], data: bytes, *, mode: int = PRIVATE_FILE) -> None:
    """Replace the file at `path` by `data`, durably, all or nothing.

    A symbolic link at `path` is replaced, not followed. A process killed on the
    way leaves the old file and perhaps a `.NAME.RANDOM.tmp` beside it, which
    may be deleted.

    Raises:
        StateMissingError: there is no such directory.
        StatePermissionError: this user may not write there.
        StateDiskError: the disk is full, read-only or failing (`data["reason"]`).
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.urandom(8).hex()}.tmp")
    with _converted(target):
        handle = os.open(
            temporary,
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            mode,
        )
        try:
            with os.fdopen(handle, "wb", buffering=0) as file:
                os.fchmod(file.fileno(), mode)
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_directory(target.parent)


def read_limited(path: str | os.PathLike[str], *, limit: int) -> bytes:
    """The content of the regular file at `path`, at most `limit` bytes.

    Symbolic links are followed: who may place one may also replace the file.

    Raises:
        StateMissingError: there is no such file.
        StatePermissionError: this user may not read it.
        StateDamagedError: it is longer than `limit`, or no regular file.
        StateDiskError: the disk is failing.
    """
    where = os.fspath(path)
    with _converted(path):
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise StateDamagedError(f"{where} is not a regular file", path=where)
            data = file.read(limit + 1)
    if len(data) > limit:
        raise StateDamagedError(f"{where} is longer than {limit} bytes", path=where, limit=limit)
    return data


def private_directory(path: str | os.PathLike[str]) -> Path:
    """The directory at `path`, made with mode 0700 when it is not there yet.

    Others may be able to list an existing one (the files in it are private by
    themselves), but only this user and root can change what is in it. Missing
    parents are made with the usual modes.

    Raises:
        StatePermissionError: others can write it, or it belongs to somebody else.
        StateDamagedError: there is something else than a directory.
        StateDiskError: the disk is full, read-only or failing.
    """
    directory = Path(path)
    where = os.fspath(directory)
    with _converted(directory):
        try:
            directory.mkdir(mode=PRIVATE_DIRECTORY, parents=True)
        except FileExistsError:
            pass
        else:
            sync_directory(directory.parent)
        found = directory.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise StateDamagedError(f"{where} is not a directory", path=where)
    if found.st_uid not in {0, os.geteuid()}:
        raise StatePermissionError(
            f"{where} belongs to uid {found.st_uid}", path=where, uid=found.st_uid
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StatePermissionError(
            f"others can write {where} (mode {stat.S_IMODE(found.st_mode):04o})",
            path=where,
            mode=stat.S_IMODE(found.st_mode),
        )
    return directory


class FileLock:
    """An exclusive lock by a file: held by one opener, in this process or any other.

    The kernel releases it when the process ends, however it ends. The file
    (0600, empty) stays: deleting it would let two processes lock two files of
    one name. It never waits.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._file: io.FileIO | None = None

    def __repr__(self) -> str:
        return f"<FileLock {self._path} {'held' if self.held else 'free'}>"

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._file is not None

    def acquire(self) -> None:
        """Take the lock, or raise at once.

        Raises:
            StateBusyError: somebody holds it, be it this object.
            StateError: the lock file cannot be opened; a symbolic link is refused.
        """
        where = os.fspath(self._path)
        with _converted(self._path):
            handle = os.open(
                self._path,
                os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                PRIVATE_FILE,
            )
            file = os.fdopen(handle, "rb+", buffering=0)
            try:
                # flock, not lockf: a second opener in this process must fail as well.
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.close()
                raise StateBusyError(f"{where} is locked already", path=where) from error
            except BaseException:
                file.close()
                raise
        self._file = file

    def release(self) -> None:
        """Give the lock back; does nothing when it is not held."""
        file, self._file = self._file, None
        if file is not None:
            with file, contextlib.suppress(OSError):
                # A forked child shares the lock; closing alone would leave it with the child.
                fcntl.flock(file, fcntl.LOCK_UN)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
