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
3. This module reads. Nothing is extended or remembered.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from hwtrust.errors import LayerUnreadableError
from hwtrust.wire.codec import tpm2b, u8, u32, u64
from hwtrust.wire.messages import LayerReference

_FILE, _DIRECTORY, _LINK = 1, 2, 3
_MODE = 0o7777
_LABEL = b"hwtrust tree v1\0"


def measure(path: Path) -> bytes:
    """The digest of the layer at `path`, 32 bytes.

    Raises:
        LayerUnreadableError: it is missing, unreadable, or holds something that
            is not a file, directory or link.
    """
    try:
        real = path.resolve(strict=True)
        if stat.S_ISDIR(real.stat().st_mode):
            return _tree(os.fsencode(real))
        return _file(os.fsencode(real))
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"layer {path} cannot be measured: {reason}"
        raise LayerUnreadableError(message, path=str(path)) from error


def reference(name: str, version: str, path: Path) -> LayerReference:
    """The reference values of a layer, for a release."""
    return LayerReference(name=name, version=version, digest=measure(path))


def _file(path: bytes, *, dir_fd: int | None = None) -> bytes:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(path, flags, dir_fd=dir_fd)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "not a file, directory or link")
        return hashlib.file_digest(file, "sha256").digest()


def _tree(top: bytes) -> bytes:
    # os.fwalk passes over what it cannot look at; here that must be an error.
    entries: list[tuple[bytes, bytes]] = []
    folders = [top]
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    while folders:
        folder = folders.pop()
        descriptor = os.open(folder, flags)
        try:
            for name in map(os.fsencode, os.listdir(descriptor)):  # noqa: PTH208 - not by path
                place = folder + b"/" + name
                path = place.removeprefix(top + b"/")
                kind, entry = _entry(path, name, descriptor)
                entries.append((path, entry))
                if kind == _DIRECTORY:
                    folders.append(place)
        finally:
            os.close(descriptor)
    return hashlib.sha256(_LABEL + b"".join(entry for _, entry in sorted(entries))).digest()


def _entry(path: bytes, name: bytes, dir_fd: int) -> tuple[int, bytes]:
    status = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    if stat.S_ISREG(status.st_mode):
        kind, size, content = _FILE, status.st_size, _file(name, dir_fd=dir_fd)
    elif stat.S_ISLNK(status.st_mode):
        target = os.readlink(name, dir_fd=dir_fd)
        kind, size, content = _LINK, len(target), hashlib.sha256(target).digest()
    elif stat.S_ISDIR(status.st_mode):
        kind, size, content = _DIRECTORY, 0, bytes(32)
    else:
        raise OSError(0, f"{os.fsdecode(path)} is not a file, directory or link")
    return kind, tpm2b(path) + u8(kind) + u32(status.st_mode & _MODE) + u64(size) + content
