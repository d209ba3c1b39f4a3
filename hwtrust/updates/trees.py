"""Trees of files, read and made through descriptors.

For what unpacks, copies, syncs and removes layers. Paths in a tree are bytes,
relative to its top, without a slash at either end.

Rules:
1. A path is walked name by name from an open directory, and no link is
   followed: a tree cannot lead out of itself.
2. Neither recursion nor open files limit a tree's depth.
3. A tree that was made is on the disk when `TreeMaker.finish` returns: each
   file, then each directory, the deepest first.
4. OSErrors pass: the caller knows what the tree is and names it in its error.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

MODE: Final = 0o7777
SPECIAL_BITS: Final = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
CHUNK: Final = 1 << 20

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: what became a FIFO since it was looked at must not make anybody wait.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_FICLONE: Final = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_CANNOT: Final = frozenset(
    {
        errno.EBADF,
        errno.EINVAL,
        errno.ENOSYS,
        errno.ENOTTY,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.ETXTBSY,
        errno.EXDEV,
    }
)


class Tree:
    """The tree whose top is the open directory `descriptor`, which the tree then owns."""

    def __init__(self, descriptor: int) -> None:
        self._top = descriptor
        self._at = b""
        self._folder = descriptor

    @classmethod
    def at(cls, path: str | bytes | os.PathLike[str], *, dir_fd: int | None = None) -> Self:
        """The tree at `path`, whose last name must not be a link."""
        return cls(os.open(path, _FOLDER, dir_fd=dir_fd))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave()
        os.close(self._top)

    def _leave(self) -> None:
        folder, self._folder, self._at = self._folder, self._top, b""
        if folder != self._top:
            os.close(folder)

    def folder(self, path: bytes) -> int:
        """A descriptor of the directory `path`, good until the next call."""
        if path != self._at:
            self._leave()
            try:
                for name in path.split(b"/") if path else ():
                    deeper = os.open(name, _FOLDER, dir_fd=self._folder)
                    self._leave()
                    self._folder = deeper
            except BaseException:
                self._leave()
                raise
            self._at = path
        return self._folder

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """A descriptor of the directory that holds `path`, and the name there."""
        above, _, name = path.rpartition(b"/")
        return self.folder(above), name

    def entries(self) -> Iterator[tuple[bytes, os.stat_result]]:
        """Everything below the top, in any order, a directory before what it holds.

        A directory is read after it was yielded.
        """
        folders = [b""]
        while folders:
            folder = folders.pop()
            for name in os.listdir(self.folder(folder)):  # noqa: PTH208 - not by path
                path = folder + b"/" * bool(folder) + os.fsencode(name)
                parent, last = self.parent(path)
                status = os.stat(last, dir_fd=parent, follow_symlinks=False)
                yield path, status
                if stat.S_ISDIR(status.st_mode):
                    folders.append(path)

    def read(self, path: bytes) -> int:
        """A descriptor of the file `path`, to be closed by the caller.

        Raises:
            OSError: it is not there, or no file any more.
        """
        parent, name = self.parent(path)
        return open_file(name, dir_fd=parent)

    def link(self, path: bytes) -> bytes:
        """Where the link `path` points to."""
        parent, name = self.parent(path)
        return os.readlink(name, dir_fd=parent)


class TreeMaker:
    """Makes a tree at the new name `path`; `sync` brings it to the disk.

    Directories are writable by their owner alone until `finish` gives them their
    modes. What was made before an error stays there, for the caller to remove.
    """

    def __init__(self, path: str | os.PathLike[str], *, mode: int = 0o755) -> None:
        os.mkdir(path, 0o700)  # noqa: PTH102 - its other half is a descriptor
        self._tree = Tree.at(path)
        self._modes: dict[bytes, int] = {b"": mode}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tree.__exit__(kind, error, trace)

    def make_folder(self, path: bytes, mode: int) -> None:
        """Make the directory `path`."""
        parent, name = self._tree.parent(path)
        os.mkdir(name, 0o700, dir_fd=parent)
        self._modes[path] = mode

    def make_link(self, path: bytes, target: bytes) -> None:
        """Make the link `path` to `target`."""
        parent, name = self._tree.parent(path)
        os.symlink(target, name, dir_fd=parent)

    @contextlib.contextmanager
    def make_file(self, path: bytes, mode: int) -> Iterator[int]:
        """Make the file `path`, which is what is written to the descriptor."""
        parent, name = self._tree.parent(path)
        with new_file(name, mode, dir_fd=parent) as descriptor:
            yield descriptor

    def finish(self) -> None:
        """Give the directories their modes."""
        # Children before their parents: a parent may become one that nobody can enter.
        for path in sorted(self._modes, reverse=True):
            folder = self._tree.folder(path)
            os.fchmod(folder, self._modes[path])


def open_file(path: str | bytes | os.PathLike[str], *, dir_fd: int | None = None) -> int:
    """A descriptor to read the file `path`, to be closed by the caller.

    Raises:
        OSError: it is not there, or it is not a file.
    """
    descriptor = os.open(path, _READ, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file, directory or link")
    return descriptor


@contextlib.contextmanager
def new_file(
    path: str | bytes | os.PathLike[str], mode: int, *, dir_fd: int | None = None
) -> Iterator[int]:
    """A descriptor to write the new file `path`, which gets `mode` at the end."""
    descriptor = os.open(path, _CREATE, 0o600, dir_fd=dir_fd)
    try:
        yield descriptor
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write the whole of `data`."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def copy_content(source: int, target: int) -> None:
    """Copy a file's bytes: shared with the source where the file system can, else copied by it.

    Raises:
        OSError: the disk is full or failing.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        _unless_cannot(error)
    else:
        return
    try:
        while os.copy_file_range(source, target, 1 << 30):
            pass
    except OSError as error:
        _unless_cannot(error)
    # Nothing is left to read, unless the file system copies no ranges: some say so by an empty one.
    while chunk := os.read(source, CHUNK):
        write_all(target, chunk)


def _unless_cannot(error: OSError) -> None:
    if error.errno not in _CANNOT:
        raise error


def sync(tree: Tree) -> None:
    """Bring every file and directory of `tree` to the disk."""
    folders = [b""]
    for path, status in tree.entries():
        if stat.S_ISDIR(status.st_mode):
            folders.append(path)
        elif stat.S_ISREG(status.st_mode):
            descriptor = tree.read(path)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    for path in sorted(folders, reverse=True):
        os.fsync(tree.folder(path))


def remove(name: str | bytes, *, dir_fd: int) -> None:
    """Remove `name`, be it a file, a link or a whole tree; missing is fine."""
    try:
        status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=dir_fd)
        return
    _open_up(name, status, dir_fd=dir_fd)
    with Tree.at(name, dir_fd=dir_fd) as tree:
        folders = []
        for path, found in tree.entries():
            parent, last = tree.parent(path)
            if stat.S_ISDIR(found.st_mode):
                _open_up(last, found, dir_fd=parent)
                folders.append(path)
            else:
                os.unlink(last, dir_fd=parent)
        for path in sorted(folders, reverse=True):
            parent, last = tree.parent(path)
            os.rmdir(last, dir_fd=parent)
    os.rmdir(name, dir_fd=dir_fd)


def _open_up(name: str | bytes, status: os.stat_result, *, dir_fd: int) -> None:
    # A directory that its owner may not change, as a layer may have, keeps what it holds.
    if status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(name, stat.S_IRWXU, dir_fd=dir_fd)
