"""The way to the kernel: whole files, directories, ioctls.

Anchors reach the kernel through a `Port` alone, so that a model of the kernel can
stand in its place: files that take effect when they are closed, writes that extend.

Rules:
1. A file is opened, written in one call, and closed before `write` returns: some of
   the kernel's files take effect at that close, others take one write of exact size.
   Nothing is created, truncated or appended.
2. What is read has a limit.
3. A port raises OSError, as the kernel does. `converted` turns it into the error tree
   where an anchor uses the port.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import time
from typing import TYPE_CHECKING, Final, Protocol

from hwtrust.errors.anchors import (
    AnchorBusyError,
    AnchorError,
    AnchorIoError,
    AnchorMissingError,
    AnchorPermissionError,
    AnchorProviderError,
    AnchorRequestError,
    AnchorResponseError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK: Final = 64 * 1024

_CAUSES: Final[dict[int, type[AnchorError]]] = {
    errno.ENOENT: AnchorMissingError,
    errno.ENODEV: AnchorMissingError,
    errno.ENOTDIR: AnchorMissingError,
    errno.ENXIO: AnchorProviderError,
    errno.ENOTTY: AnchorProviderError,
    errno.EACCES: AnchorPermissionError,
    errno.EPERM: AnchorPermissionError,
    errno.EROFS: AnchorPermissionError,
    errno.EBUSY: AnchorBusyError,
    errno.EAGAIN: AnchorBusyError,
    errno.EINTR: AnchorBusyError,
    errno.EINVAL: AnchorRequestError,
    errno.EFBIG: AnchorRequestError,
    errno.E2BIG: AnchorRequestError,
    errno.EMSGSIZE: AnchorRequestError,
    errno.ETXTBSY: AnchorRequestError,
}


class Port(Protocol):
    """What anchors need of an operating system; each call may raise OSError."""

    def mkdir(self, path: str) -> None:
        """Make a directory."""

    def rmdir(self, path: str) -> None:
        """Remove a directory."""

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, in order."""

    def probe(self, path: str) -> None:
        """Raise if the path is not there, or this process may not read and write it."""

    def read(self, path: str, *, limit: int) -> bytes:
        """All that a file gives, up to one byte more than `limit`."""

    def write(self, path: str, data: bytes) -> int:
        """Open an existing file, write `data` in one call at offset 0, close; what was taken."""

    def ioctl(self, path: str, request: int, argument: bytearray) -> None:
        """Open a device, issue one ioctl that may change `argument`, close."""

    def pause(self, seconds: float) -> None:
        """Wait."""


class LinuxPort:
    """The kernel that this process runs on."""

    def mkdir(self, path: str) -> None:
        """Make a directory that others cannot look into."""
        os.mkdir(path, 0o700)  # noqa: PTH102 - the whole port is os calls

    def rmdir(self, path: str) -> None:
        """Remove a directory."""
        os.rmdir(path)  # noqa: PTH106

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, in order."""
        return sorted(os.listdir(path))  # noqa: PTH208

    def probe(self, path: str) -> None:
        """Raise if the path is not there, or this process may not read and write it."""
        os.stat(path)  # noqa: PTH116
        if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    def read(self, path: str, *, limit: int) -> bytes:
        """All that a file gives, up to one byte more than `limit`."""
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        data = bytearray()
        try:
            while len(data) <= limit:
                piece = os.read(handle, min(_CHUNK, limit + 1 - len(data)))
                if not piece:
                    break
                data += piece
        finally:
            os.close(handle)
        return bytes(data)

    def write(self, path: str, data: bytes) -> int:
        """Open an existing file, write `data` in one call at offset 0, close; what was taken."""
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            return os.write(handle, data)
        finally:
            os.close(handle)

    def ioctl(self, path: str, request: int, argument: bytearray) -> None:
        """Open a device, issue one ioctl that may change `argument`, close."""
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(handle, request, argument, True)  # noqa: FBT003 - it takes no keywords
        finally:
            os.close(handle)

    def pause(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def anchor_error(error: OSError, path: str) -> AnchorError:
    """The error of hwtrust's tree that says what an OSError about `path` said."""
    number = error.errno or 0
    name = errno.errorcode.get(number, str(number))
    said = os.strerror(number) if number else "input/output error"
    cause = _CAUSES.get(number, AnchorIoError)
    return cause(f"{path}: {said}", path=path, errno=name)


@contextlib.contextmanager
def converted(path: str) -> Iterator[None]:
    """Turn an OSError about `path` into the error tree."""
    try:
        yield
    except OSError as error:
        raise anchor_error(error, path) from error


def read_file(port: Port, path: str, *, limit: int) -> bytes:
    """The content of a file, at most `limit` bytes.

    Raises:
        AnchorResponseError: it is longer.
        AnchorError: it cannot be read.
    """
    with converted(path):
        data = port.read(path, limit=limit)
    if len(data) > limit:
        raise AnchorResponseError(f"{path} is longer than {limit} bytes", path=path, limit=limit)
    return data


def read_exactly(port: Port, path: str, size: int) -> bytes:
    """The content of a file that has `size` bytes.

    Raises:
        AnchorResponseError: it has not.
        AnchorError: it cannot be read.
    """
    data = read_file(port, path, limit=size)
    if len(data) != size:
        raise AnchorResponseError(
            f"{path} gave {len(data)} bytes, not {size}", path=path, size=len(data)
        )
    return data


def write_file(port: Port, path: str, data: bytes) -> None:
    """Write all of `data` in one call, and close.

    Raises:
        AnchorIoError: only a part was taken.
        AnchorError: it cannot be written.
    """
    with converted(path):
        taken = port.write(path, data)
    if taken != len(data):
        raise AnchorIoError(f"{path} took {taken} of {len(data)} bytes", path=path, size=taken)


def address(buffer: bytearray) -> int:
    """Where a buffer lies in memory, for an ioctl; it holds while the buffer keeps its size."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def erase(buffer: bytearray) -> None:
    """Overwrite a buffer with zeros; other copies of a secret may exist."""
    buffer[:] = bytes(len(buffer))
