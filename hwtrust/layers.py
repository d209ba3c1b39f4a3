"""What a layer is: a file, or a tree of files, as one SHA-256 digest.

A file's digest is SHA-256 of its bytes, what `sha256sum` prints. A tree's is
SHA-256 over a label, so that no file can stand for a tree, and its entries,
sorted by relative path as bytes:

    tree  = "hwtrust tree v1" and a zero byte | entries
    entry = path (u16 size) | type (u8) | mode (u32) | size (u64) | content (32)

`content` is the SHA-256 of a file's bytes or of a link's target, and zero for a
directory. Owner, times and link counts do not enter: they differ between
machines that hold the same layer.

Rules:
1. Links inside a tree are measured, never followed. The layer's own path may be
   a link, such as one to the active slot.
2. What is neither file, directory nor link is refused, not skipped.
3. Mode, size and content of a file come from one descriptor.
4. This module reads. Nothing is extended; what may be remembered is the
   caller's choice, and fs-verity's (`hwtrust.digests`).
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from typing import TYPE_CHECKING, Self

from hwtrust import digests
from hwtrust.errors import LayerUnreadableError
from hwtrust.wire.codec import tpm2b, u8, u32, u64
from hwtrust.wire.messages import LayerReference

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor
    from pathlib import Path

    from hwtrust.digests import MeasureCache

_FILE, _DIRECTORY, _LINK = 1, 2, 3
_MODE = 0o7777
_LABEL = b"hwtrust tree v1\0"

_Entry = tuple[bytes, bytes]
"""A path and its entry in the canonical form."""
_Opened = tuple[bytes, int, os.stat_result]
"""The path of a file, its descriptor and what the descriptor says of it."""

# A thread that reads small files mostly waits for the interpreter's lock: those are read by the
# one that walks, and others are handed out in batches.
_SMALL = 8 * 1024
_BATCH_BYTES = 4 * 1024 * 1024
_BATCH_FILES = 64
_MOST_THREADS = 4


def measure(path: Path, *, cache: MeasureCache | None = None) -> bytes:
    """The digest of the layer at `path`, 32 bytes.

    With a `cache`, files that fs-verity guards are read once and then remembered.

    Raises:
        LayerUnreadableError: it is missing, unreadable, or holds something that
            is not a file, directory or link.
    """
    try:
        real = path.resolve(strict=True)
        if stat.S_ISDIR(real.stat().st_mode):
            return _tree(os.fsencode(real), cache)
        return _file(os.fsencode(real), cache)
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"layer {path} cannot be measured: {reason}"
        raise LayerUnreadableError(message, path=str(path)) from error


def reference(name: str, version: str, path: Path) -> LayerReference:
    """The reference values of a layer, for a release."""
    return LayerReference(name=name, version=version, digest=measure(path))


def _file(path: bytes, cache: MeasureCache | None) -> bytes:
    descriptor, _ = _open(path)
    try:
        return _sha256(descriptor, None, cache)
    finally:
        os.close(descriptor)


def _open(name: bytes, dir_fd: int | None = None) -> tuple[int, os.stat_result]:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(name, flags, dir_fd=dir_fd)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise OSError(0, "not a file, directory or link")
    return descriptor, status


def _sha256(descriptor: int, buffer: bytearray | None, cache: MeasureCache | None) -> bytes:
    read = digests.sha256 if cache is None else cache.sha256
    return read(descriptor, buffer)


def _tree(top: bytes, cache: MeasureCache | None) -> bytes:
    # os.fwalk passes over what it cannot look at; here that must be an error.
    entries: list[_Entry] = []
    folders = [top]
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with _Files(cache) as files:
        while folders:
            folder = folders.pop()
            descriptor = os.open(folder, flags)
            try:
                for name in map(os.fsencode, os.listdir(descriptor)):  # noqa: PTH208 - not by path
                    place = folder + b"/" + name
                    path = place.removeprefix(top + b"/")
                    mode = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
                    if stat.S_ISREG(mode):
                        files.add(path, name, descriptor)
                    elif stat.S_ISLNK(mode):
                        target = os.readlink(name, dir_fd=descriptor)
                        content = hashlib.sha256(target).digest()
                        entries.append(_entry(path, _LINK, mode, len(target), content))
                    elif stat.S_ISDIR(mode):
                        entries.append(_entry(path, _DIRECTORY, mode, 0, bytes(32)))
                        folders.append(place)
                    else:
                        message = f"{os.fsdecode(path)} is not a file, directory or link"
                        raise OSError(0, message)
            finally:
                os.close(descriptor)
        entries += files.entries()
    return hashlib.sha256(_LABEL + b"".join(entry for _, entry in sorted(entries))).digest()


def _entry(path: bytes, kind: int, mode: int, size: int, content: bytes) -> _Entry:
    return path, tpm2b(path) + u8(kind) + u32(mode & _MODE) + u64(size) + content


class _Files:
    """The files of one tree, read by as many threads as there are cores.

    The number of descriptors that are open at once has a bound.
    """

    def __init__(self, cache: MeasureCache | None) -> None:
        self._cache = cache
        self._threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
        self._pool: ThreadPoolExecutor | None = None
        self._buffer = bytearray(digests.CHUNK)
        self._batch: list[_Opened] = []
        self._bytes = 0
        self._running: deque[Future[list[_Entry]]] = deque()
        self._entries: list[_Entry] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        _close(self._batch)

    def add(self, path: bytes, name: bytes, dir_fd: int) -> None:
        """Open a file and read it, now or soon."""
        descriptor, status = _open(name, dir_fd)
        if status.st_size <= _SMALL or self._threads == 1:
            self._entries += _read([(path, descriptor, status)], self._buffer, self._cache)
            return
        self._batch.append((path, descriptor, status))
        self._bytes += status.st_size
        if self._bytes >= _BATCH_BYTES or len(self._batch) >= _BATCH_FILES:
            self._hand_out()

    def entries(self) -> list[_Entry]:
        """The entries of all files, in any order."""
        self._entries += _read(self._batch, self._buffer, self._cache)
        while self._running:
            self._entries += self._running.popleft().result()
        return self._entries

    def _hand_out(self) -> None:
        if self._pool is None:
            # Loaded only where there is much to read.
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

            self._pool = ThreadPoolExecutor(self._threads, "measure")
        self._running.append(self._pool.submit(_read, self._batch, None, self._cache))
        self._batch, self._bytes = [], 0
        if len(self._running) > self._threads + 1:
            self._entries += self._running.popleft().result()


def _read(
    batch: list[_Opened], buffer: bytearray | None, cache: MeasureCache | None
) -> list[_Entry]:
    """The entries of opened files, which are closed."""
    if buffer is None:
        buffer = bytearray(digests.CHUNK)
    try:
        return [
            _entry(path, _FILE, status.st_mode, status.st_size, _sha256(descriptor, buffer, cache))
            for path, descriptor, status in batch
        ]
    finally:
        _close(batch)


def _close(batch: list[_Opened]) -> None:
    while batch:
        os.close(batch.pop()[1])
